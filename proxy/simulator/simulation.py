"""One fleet, one policy, one trace: every request from its arrival to its last token.

The policy, its memory and the fleet state are the proxy's own; only the workers are simulated. The memory is
told what the proxy would see, when it would see it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..routing.books import book, decode_done, prefill_done
from ..routing.fleet import Fleet, KvAddress, Role, Sighting, Worker, WorkerState
from ..routing.load import WorkerFacts
from ..routing.memory import RoutingMemory
from ..routing.policy import Policy
from ..routing.view import RequestView
from .decode_sim import DecodeSim, LockstepGroup
from .engine_model import EngineModel
from .events import EventQueue
from .job import Job
from .links import Links
from .prefill_sim import PrefillSim, publish_computed
from .trace import TRACE_BLOCK_TOKENS, TraceRequest

MODEL = "simulated"
LONG_AGO_S = -86_400.0
"""Since when workers are ready: none is new."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class FleetSize:
    """How many workers of each kind."""

    prefill: int
    decode: int


class Simulation:
    """Runs once."""

    def __init__(
        self,
        size: FleetSize,
        model: EngineModel,
        policy: Policy,
        memory: RoutingMemory,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.size = size
        self.jobs: list[Job] = []
        self._model = model
        self._policy = policy
        self._memory = memory
        self._lot = random.Random(seed)  # noqa: S311 (a lot, no secret)
        self._progress = progress
        self._total = 0
        self._finished = 0
        self._events = EventQueue()
        self._links = Links(model.link)
        self.fleet = simulated_fleet(size)
        self.prefill = {
            name: PrefillSim(name, model, self._events, self._prefill_answered)
            for name in (f"p{number}" for number in range(size.prefill))
        }
        self.decode = {
            name: DecodeSim(name, model) for name in (f"d{number}" for number in range(size.decode))
        }
        self.groups = self._form_groups()
        self._describe()

    def run(self, trace: Sequence[TraceRequest]) -> list[Job]:
        """Serve the whole trace; return its requests with their times."""
        self._total = len(trace)
        for request in trace:
            self._events.at(request.at_s, lambda now, request=request: self._arrive(request, now))  # type: ignore[misc]
        self._events.run()
        assert self._finished == self._total, f"{self._total - self._finished} requests never ended"
        return self.jobs

    # --- building

    def _form_groups(self) -> dict[str, LockstepGroup]:
        decode = list(self.decode.values())
        teams = [decode] if self._model.decode.lockstep else [[member] for member in decode]
        groups = {}
        for team in teams:
            group = LockstepGroup(
                team,
                self._events,
                prefilled=self._prefilled_on_decode,
                first_token=self._first_token,
                finished=self._finish,
            )
            groups.update({member.name: group for member in team})
        return groups

    def _describe(self) -> None:
        model = self._model
        for worker in self.fleet.workers.values():
            if worker.role is Role.PREFILL:
                facts = WorkerFacts(kv_tokens_capacity=model.prefill.kv_tokens)
            else:
                facts = WorkerFacts(
                    kv_tokens_capacity=model.decode.kv_tokens,
                    captured_batch_sizes=model.decode.captured_batch_sizes,
                    lockstep_group="decode" if model.decode.lockstep else None,
                )
            self._memory.describe(worker, facts)

    # --- a request's life

    def _arrive(self, request: TraceRequest, now: float) -> None:
        off = 1.0 + self._lot.uniform(-1.0, 1.0) * self._model.token_estimate_error
        view = RequestView(
            request_id=f"r{len(self.jobs)}",
            model=MODEL,
            prompt_tokens=max(round(request.prompt_tokens * off), 1),
            output_tokens=self._model.output_tokens_guess,
            prefix_keys=list(request.keys),
            key_tokens=TRACE_BLOCK_TOKENS * off,
        )
        decision = self._policy.decide(view, self.fleet, now)
        assert decision is not None, "a simulated worker is never out"
        job = Job(request, view, decision, dispatched_at=now)
        self.jobs.append(job)
        self._memory.dispatched(view, decision, now)
        book(view, decision)
        arrives_at = now + self._model.leg_s
        if decision.prefill is None:
            self._events.at(arrives_at, lambda then: self._enter_decode(job, then))
            return
        worker = self.prefill[decision.prefill.name]
        self._events.at(arrives_at, lambda then: worker.submit(job, then))

    def _prefill_answered(self, job: Job, now: float) -> None:
        job.prefilled_at = now
        prefill_done(job.view, job.decision)
        self._memory.prefilled(
            job.view, prompt_tokens=job.prompt_tokens, cached_tokens=job.cached_tokens, now=now
        )
        self._events.at(now + self._model.leg_s, lambda then: self._enter_decode(job, then))

    def _enter_decode(self, job: Job, now: float) -> None:
        member = self.decode[job.decision.decode.name]
        member.waiting.append(job)
        self._admit(member, now)

    def _admit(self, member: DecodeSim, now: float) -> None:
        while member.waiting and member.admit(member.waiting[0]):
            job = member.waiting.popleft()
            if job.decision.prefill is None:
                self._compute_on_decode(member, job, now)
            else:
                self._pull(member, job, now)

    def _compute_on_decode(self, member: DecodeSim, job: Job, now: float) -> None:
        assert job.decode_lease is not None
        cached = job.decode_lease.matched * self._model.block_tokens
        job.cached_tokens = job.computed_tokens = min(cached, job.prompt_tokens - 1)
        job.taken_up_at = now
        member.prefilling.append(job)
        self.groups[member.name].changed(now)

    def _pull(self, member: DecodeSim, job: Job, now: float) -> None:
        assert job.decode_lease is not None
        assert job.decision.prefill is not None
        held = job.decode_lease.matched * self._model.block_tokens
        job.kv_bytes = max(job.prompt_tokens - held, 0) * self._model.link.kv_bytes_per_token
        done_at = self._links.send(job.decision.prefill.name, member.name, job.kv_bytes, now)
        self._events.at(done_at, lambda then: self._pulled(member, job, then))

    def _pulled(self, member: DecodeSim, job: Job, now: float) -> None:
        assert job.decision.prefill is not None
        assert job.decode_lease is not None
        job.arrived_at = now
        member.cache.publish(job.decode_lease, job.request.keys[job.decode_lease.matched :])
        self.prefill[job.decision.prefill.name].release(job, now)
        member.joining.append(job)
        self.groups[member.name].changed(now)

    def _prefilled_on_decode(self, job: Job, now: float) -> None:
        member = self.decode[job.decision.decode.name]
        publish_computed(member.cache, job, self._model.block_tokens)
        job.prefilled_at = job.arrived_at = now
        member.joining.append(job)

    def _first_token(self, job: Job, now: float) -> None:
        cached = job.cached_tokens if job.decision.prefill is None else None
        self._memory.streaming(job.view, cached_tokens=cached, now=now)

    def _finish(self, job: Job, now: float) -> None:
        member = self.decode[job.decision.decode.name]
        assert job.decode_lease is not None
        member.cache.release(job.decode_lease)
        decode_done(job.view, job.decision)
        self._memory.ended(job.view, output_tokens=job.request.output_tokens, now=now)
        self._finished += 1
        if self._progress is not None:
            self._progress(self._finished, self._total)
        self._admit(member, now)


def simulated_fleet(size: FleetSize) -> Fleet:
    """Return a fleet whose workers are all ready and have shaken hands."""
    workers = [_worker(f"p{number}", Role.PREFILL) for number in range(size.prefill)]
    workers += [_worker(f"d{number}", Role.DECODE) for number in range(size.decode)]
    fleet = Fleet(workers)
    for worker in workers:
        address = KvAddress(host="", port=0) if worker.role is Role.PREFILL else None
        seen = Sighting(ready=True, models=frozenset({MODEL}), incarnation=worker.name, kv=address)
        fleet.sighted(worker, seen, LONG_AGO_S)
        fleet.joined(worker, LONG_AGO_S)
    for prefill in workers[: size.prefill]:
        for decode in workers[size.prefill :]:
            fleet.shaken(prefill, decode)
    return fleet


def _worker(name: str, role: Role) -> Worker:
    return Worker(name=name, role=role, state=WorkerState.JOINING, since=LONG_AGO_S)
