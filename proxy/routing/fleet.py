"""The fleet as the routing knows it: who is there, in what state, paired with whom, with how much work.

No I/O and no clock: the prober and the exchanges report what they saw with the time of it.

    DOWN --answers, not ready--> LOADING --ready--> JOINING --hands shaken--> READY
      ^------------ refuses, or fails probes ------------------------------------'
"""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

COOLING_AFTER_FAILURES = 3
"""So many failures in a row put a worker behind all others, for a while that doubles."""
COOLING_FIRST_S = 1.0
COOLING_LONGEST_S = 30.0
PROBES_TO_DOWN = 3
"""So many unanswered probes in a row take a worker out; a refused connection does at once."""


class Role(enum.Enum):
    """Which legs a worker is sent."""

    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"


class Kind(enum.Enum):
    """Which dialect a worker speaks beyond the common one."""

    BATON = "baton"
    """Has `/ready`, `/kv/peers` and `/abort/{request_id}`."""
    VLLM = "vllm"
    """Has `/health` and `/v1/models`; connects to its peers by itself; its leases end by expiry."""
    SGLANG = "sglang"
    """Has `/health`, `/v1/models` and `/abort_request`; is asked at once with its peer, which it meets in a
    room at the prefill worker's bootstrap address. One with role `both` serves alone, and only alone."""


class WorkerState(enum.Enum):
    """Where a worker stands between being listed and being sent requests."""

    DOWN = "down"
    LOADING = "loading"
    JOINING = "joining"
    READY = "ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class KvAddress:
    """Where a prefill worker's KV control channel listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldLoad:
    """What a worker says it has to do, whoever sent it; as old as the last look."""

    running: int
    waiting: int
    kv_tokens_free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a probe saw of a worker that answered."""

    ready: bool
    reason: str = ""
    """Why it is not ready, in its own words."""
    models: frozenset[str] = frozenset()
    incarnation: str = ""
    """Fresh for every process; empty for kinds that do not tell."""
    kv: KvAddress | None = None
    max_model_len: int | None = None
    kv_tokens_capacity: int | None = None
    """Size of its KV pool."""
    captured_batch_sizes: tuple[int, ...] = ()
    """Ascending sizes that its decode batches are padded to; empty: they are not."""
    lockstep_group: str | None = None
    """Workers of one group take every step together."""
    load: ToldLoad | None = None
    """Shown, and not gone by: the proxy's own books are newer."""

    @property
    def bearing(self) -> tuple[object, ...]:
        """What policies and admission go by: a worker in rotation that changes in this is another one."""
        return self.models, self.kv_tokens_capacity, self.captured_batch_sizes, self.lockstep_group


@dataclass(eq=False)
class Worker:
    """One worker and what the proxy has in flight on it."""

    name: str
    role: Role
    kind: Kind = Kind.BATON
    state: WorkerState = WorkerState.DOWN
    reason: str = "not probed yet"
    since: float = 0.0
    """When it entered its state, seconds on the proxy's monotonic clock."""
    sighting: Sighting = field(default_factory=lambda: Sighting(ready=False))
    prefill_tokens: int = 0
    """Prompt tokens sent for prefill and not answered."""
    decode_tokens: int = 0
    """Prompt and expected output tokens of the requests it decodes or will decode."""
    prefill_requests: int = 0
    decode_requests: int = 0
    failures: int = 0
    """Failures in a row, of requests."""
    missed_probes: int = 0
    cooling_until: float = 0.0
    draining: bool = False
    """It is to end what it has, and gets nothing new."""
    bootstrap: KvAddress | None = None
    """Where an SGLang prefill worker and its peers meet."""
    shown: bytes = field(init=False)
    """The name as headers show it."""

    def __post_init__(self) -> None:
        self.shown = self.name.encode()

    @property
    def needs_partner(self) -> bool:
        """Whether it decodes nothing but what a prefill worker hands over."""
        return self.kind is Kind.SGLANG and self.role is Role.DECODE

    @property
    def in_rotation(self) -> bool:
        """Whether it may be sent requests."""
        return self.state is WorkerState.READY and not self.draining

    @property
    def prefills(self) -> bool:
        """Whether its role lets it take prefill legs."""
        return self.role is not Role.DECODE

    @property
    def decodes(self) -> bool:
        """Whether its role lets it take decode legs."""
        return self.role is not Role.PREFILL


@dataclass
class ModelPool:
    """The ready workers of one model, by leg."""

    prefill: list[Worker] = field(default_factory=list)
    decode: list[Worker] = field(default_factory=list)


class Fleet:
    """All workers. Mutated by events only; `pool` is what policies read."""

    def __init__(self, workers: Iterable[Worker]) -> None:
        self.workers = {worker.name: worker for worker in workers}
        self._pools: dict[str, ModelPool] = {}
        self._models: frozenset[str] = frozenset()
        self._shaken: dict[tuple[str, str], tuple[str, str]] = {}
        self.handshakes = 0
        """So many were recorded: while this and a pool are the same, so are the pairs in it."""
        self.listeners: list[Callable[[Worker, float], None]] = []
        """Told, with the time, of a worker that enters or leaves the rotation or that changes within it."""
        self.on_restart: list[Callable[[Worker], None]] = []
        """Told of a worker that is, or may be, a new process."""
        self.on_remove: list[Callable[[Worker], None]] = []
        """Told of a worker that is not listed any more, last of all."""

    @property
    def models(self) -> frozenset[str]:
        """Every model a worker was ever seen to serve."""
        return self._models

    def pool(self, model: str) -> ModelPool:
        """Return the ready workers of `model`; an empty pool when it is unknown."""
        return self._pools.get(model) or ModelPool()

    def serves(self, worker: Worker) -> bool:
        """Whether it may be sent decode legs."""
        if not worker.decodes or not worker.in_rotation:
            return False
        return not worker.needs_partner or any(
            other.in_rotation
            and self.may_pair(other, worker)
            and not other.sighting.models.isdisjoint(worker.sighting.models)
            for other in self.workers.values()
        )

    # --- who is listed

    def add(self, worker: Worker) -> None:
        """A worker is listed, under a name that nobody has."""
        assert worker.name not in self.workers, worker.name
        self.workers[worker.name] = worker

    def drain(self, worker: Worker, now: float) -> None:
        """Send it nothing new."""
        if not worker.draining:
            worker.draining = True
            self._rotation_changed(worker, now)

    def undrain(self, worker: Worker, now: float) -> None:
        """Send it requests again, if it is ready."""
        if worker.draining:
            worker.draining = False
            self._rotation_changed(worker, now)

    def remove(self, worker: Worker, now: float) -> None:
        """It is not listed any more. What it held is gone."""
        self.unreachable(worker, "removed", now)
        del self.workers[worker.name]
        self._shaken = {pair: seen for pair, seen in self._shaken.items() if worker.name not in pair}
        for tell in (*self.on_restart, *self.on_remove):
            tell(worker)

    # --- pairs

    def needs_handshake(self, prefill: Worker, decode: Worker) -> bool:
        """Whether this pair could hand KV over but has not shaken hands since either one started."""
        return self._could_pair(prefill, decode) and not self.may_pair(prefill, decode)

    def may_pair(self, prefill: Worker, decode: Worker) -> bool:
        """Whether `decode` can pull KV from `prefill`."""
        if prefill.kind is Kind.VLLM:
            return decode.kind is Kind.VLLM
        if prefill.kind is Kind.SGLANG:
            return prefill.role is Role.PREFILL and decode.needs_partner
        incarnations = (prefill.sighting.incarnation, decode.sighting.incarnation)
        return self._shaken.get((prefill.name, decode.name)) == incarnations

    def _could_pair(self, prefill: Worker, decode: Worker) -> bool:
        return (
            prefill is not decode
            and prefill.prefills
            and decode.decodes
            and prefill.kind is decode.kind is Kind.BATON
            and prefill.sighting.kv is not None
            and not prefill.sighting.models.isdisjoint(decode.sighting.models)
        )

    def shaken(self, prefill: Worker, decode: Worker) -> None:
        """Record that `decode` shook hands with `prefill`, as they are now."""
        incarnations = (prefill.sighting.incarnation, decode.sighting.incarnation)
        self._shaken[prefill.name, decode.name] = incarnations
        self.handshakes += 1

    def unshaken(self) -> list[tuple[Worker, Worker]]:
        """Return the pairs of ready workers that still have to shake hands."""
        ready = [worker for worker in self.workers.values() if worker.state is WorkerState.READY]
        return [(p, d) for p in ready for d in ready if self.needs_handshake(p, d)]

    # --- what the prober saw

    def sighted(self, worker: Worker, seen: Sighting, now: float) -> None:
        """A probe was answered. A ready worker that is new or was restarted has to shake hands first."""
        restarted = seen.incarnation != worker.sighting.incarnation
        worker.missed_probes = 0
        changed = seen.bearing != worker.sighting.bearing
        worker.sighting = seen
        if restarted or (not seen.incarnation and worker.state is WorkerState.DOWN):
            for tell in self.on_restart:
                tell(worker)
        if not seen.ready:
            self._enter(worker, WorkerState.LOADING, seen.reason, now)
        elif restarted or worker.state is not WorkerState.READY:
            self._enter(worker, WorkerState.JOINING, "shaking hands", now)
        elif changed:
            self._rotation_changed(worker, now)

    def joined(self, worker: Worker, now: float) -> None:
        """Its handshakes were all tried: a worker that is still joining enters rotation."""
        if worker.state is WorkerState.JOINING:
            worker.failures = 0
            worker.cooling_until = 0.0
            self._enter(worker, WorkerState.READY, "", now)

    def missed(self, worker: Worker, reason: str, now: float) -> None:
        """A probe went unanswered."""
        worker.missed_probes += 1
        if worker.missed_probes >= PROBES_TO_DOWN or worker.state is not WorkerState.READY:
            self._enter(worker, WorkerState.DOWN, reason, now)

    def unreachable(self, worker: Worker, reason: str, now: float) -> None:
        """A connection was refused or could not be made: out at once, until a probe is answered."""
        self._enter(worker, WorkerState.DOWN, reason, now)

    def _enter(self, worker: Worker, state: WorkerState, reason: str, now: float) -> None:
        worker.reason = reason
        if worker.state is state:
            return
        rotation_changes = WorkerState.READY in (worker.state, state)
        worker.state = state
        worker.since = now
        if rotation_changes and not worker.draining:
            self._rotation_changed(worker, now)

    def _rotation_changed(self, worker: Worker, now: float) -> None:
        self._rebuild()
        for tell in self.listeners:
            tell(worker, now)

    def _rebuild(self) -> None:
        pools = {model: ModelPool() for model in self._pools}
        for worker in self.workers.values():
            for model in worker.sighting.models:
                pool = pools.setdefault(model, ModelPool())
                if worker.in_rotation:
                    if worker.prefills:
                        pool.prefill.append(worker)
                    if self.serves(worker):
                        pool.decode.append(worker)
        self._pools, self._models = pools, frozenset(pools)

    # --- what the exchanges saw

    def succeeded(self, worker: Worker) -> None:
        """A leg was answered."""
        worker.failures = 0

    def failed(self, worker: Worker, now: float) -> None:
        """A leg failed by the worker's fault; several in a row put it behind the others for a while."""
        worker.failures += 1
        over = worker.failures - COOLING_AFTER_FAILURES
        if over >= 0:
            worker.cooling_until = now + min(COOLING_FIRST_S * 2 ** min(over, 10), COOLING_LONGEST_S)
