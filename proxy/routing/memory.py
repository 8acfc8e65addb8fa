"""What the routing has learned: the prefix index, the rates, and the load that its own dispatches make.

One memory for all policies of a proxy, so that a policy can be swapped, or run in another's shadow, without
starting blind. It is an `Observer`: the exchanges feed it; policies only read.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import msgspec

from .fleet import Worker
from .load import Load, WorkerFacts
from .observer import Leg
from .policy import Decision
from .prefix_index import PrefixIndex, PrefixMatch, prefix_keys
from .rates import RateConfig, Rates, attended_pairs
from .view import RequestView

_OUTPUT_MEMORY = 0.98
_RUN_PROMPTS = 8
_TURNOVER = 0.6
"""The index forgets what was not used while so much of all KV pools was written anew, or twice so much."""


class IndexConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How prompts are remembered."""

    chunk_bytes: Annotated[int, msgspec.Meta(ge=16)] = 512
    """A prompt is known in steps of so many bytes."""
    max_bytes: Annotated[int, msgspec.Meta(ge=1 << 16)] = 256 * 1024 * 1024
    """Memory of the index; what was used least recently goes first."""
    max_age_s: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    """A prefix that was not used for so long is forgotten; after half of it at the earliest."""


@dataclass(slots=True)
class _Run:
    """Prompts that one worker answered without a pause between them.

    Rates are learned from whole runs: chunks of neighbours share a step, so that a single prompt's time says
    little about its own work.
    """

    prompts: int = 0
    uncached_tokens: float = 0.0
    pairs: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class _Booking:
    """One request in flight."""

    request: RequestView
    """Held so that no other object takes its identity."""
    keys: list[int]
    prefill: Worker | None
    decode: Worker
    promised: int
    known_on_decode: int
    prompt_tokens: int
    output_tokens: float
    """As expected."""
    uncached_tokens: float
    computed: bool = False
    """Decode by itself computed the prompt, or it was given up."""
    prefilled_at: float | None = None
    streaming_at: float = 0.0
    computed_before: int | None = None
    """Prompts that its decode group had computed itself when the stream began; None: one was under way."""
    rows: float = 0.0
    context_tokens: float = 0.0

    @property
    def computes(self) -> Worker:
        return self.prefill or self.decode

    @property
    def sequence(self) -> dict[str, float]:
        return {
            "context_tokens": self.prompt_tokens + self.output_tokens / 2,
            "reserved_tokens": self.prompt_tokens + self.output_tokens,
        }


class RoutingMemory:
    """Learns from every exchange; answers policies."""

    def __init__(
        self, index: IndexConfig, rates: RateConfig, *, now: float, kv_bytes_per_token: float = 70_272.0
    ) -> None:
        self.index_config = index
        self.index = PrefixIndex(max_bytes=index.max_bytes, max_age_s=index.max_age_s, now=now)
        self.rates = Rates(rates)
        self.load = Load(self.rates)
        self.kv_bytes_per_token = kv_bytes_per_token
        self.learned_chunks: Counter[str] = Counter()
        """How much was sent to each worker that it did not have."""
        self._new_tokens = 0.0
        self._seeds: dict[str, int] = {}
        # By identity, since clients' ids may repeat.
        self._bookings: dict[int, _Booking] = {}
        self._runs: dict[str, _Run] = {}
        self._computing: Counter[str] = Counter()
        self._computed: Counter[str] = Counter()
        """By decode group: prompts that its workers compute themselves now, and have computed."""
        self._outputs_seen = 0.0
        self._output_sum = 0.0

    # --- what policies ask

    def match(self, request: RequestView, now: float) -> PrefixMatch:
        """Return how much of the prompt each worker holds."""
        return self.index.lookup(self.keys(request), now)

    def keys(self, request: RequestView) -> list[int]:
        """Return the prompt's keys; they are hashed once for each request."""
        if request.prefix_keys is None:
            seed = self._seeds.setdefault(request.model, len(self._seeds))
            chunk_bytes = self.index_config.chunk_bytes
            request.prefix_keys = prefix_keys(request.prompt, chunk_bytes, seed)
            request.key_tokens = request.prompt_tokens * chunk_bytes / max(len(request.prompt), chunk_bytes)
        return request.prefix_keys

    def expected_output_tokens(self, request: RequestView) -> float:
        """Return how long the answer may get: the mean of late, at most the request's own limit."""
        if not self._outputs_seen:
            return request.output_tokens
        return min(request.output_tokens, self._output_sum / self._outputs_seen)

    def cached_tokens(self, request: RequestView, worker: str, chunks: int) -> float:
        """Return how many tokens of the prompt `worker` should have, if the index says `chunks`."""
        return min(chunks * request.key_tokens * self.index.trust(worker), request.prompt_tokens - 1.0)

    # --- what workers tell

    def describe(self, worker: Worker, facts: WorkerFacts) -> None:
        """Take note of what a worker told of itself."""
        self.load.describe(worker.name, facts)

    # --- Observer

    def dispatched(self, request: RequestView, decision: Decision, now: float) -> None:
        """Take the prompt as known to the worker that will compute it, and book the work."""
        assert id(request) not in self._bookings, f"{request.request_id} is in flight already"
        keys = self.keys(request)
        match = self.index.lookup(keys, now)
        computes = decision.prefill or decision.decode
        promised = match.chunks(computes.name)
        cached = self.cached_tokens(request, computes.name, promised)
        booking = _Booking(
            request=request,
            keys=keys,
            prefill=decision.prefill,
            decode=decision.decode,
            promised=promised,
            known_on_decode=match.chunks(decision.decode.name),
            prompt_tokens=request.prompt_tokens,
            output_tokens=self.expected_output_tokens(request),
            uncached_tokens=request.prompt_tokens - cached,
        )
        self._bookings[id(request)] = booking
        seconds = self.rates.prefill_s(
            computes.name, uncached_tokens=booking.uncached_tokens, cached_tokens=cached
        )
        self.load.prompt_sent(
            computes.name, id(request), seconds=seconds, uncached_tokens=booking.uncached_tokens, now=now
        )
        if decision.prefill is None:
            self._computing[self.load.team(decision.decode.name)] += 1
        self.load.sequence_added(decision.decode.name, **booking.sequence)
        # The decode worker of a pair has the prompt only once it streams: see there.
        self.index.insert(computes.name, keys, now)
        new = len(keys) - promised
        self.learned_chunks[computes.name] += new
        if decision.prefill is not None:
            self.learned_chunks[decision.decode.name] += len(keys) - booking.known_on_decode
            new += len(keys) - booking.known_on_decode
        self._turn_over(new * request.key_tokens, now)

    def prefilled(
        self, request: RequestView, *, prompt_tokens: int | None, cached_tokens: int | None, now: float
    ) -> None:
        """Learn how fast the prefill worker is and how much of the index is true of it."""
        booking = self._bookings.get(id(request))
        if booking is None or booking.prefill is None:
            return
        booking.prefilled_at = now
        self._learn_prefill(request, booking, prompt_tokens, cached_tokens, now)

    def streaming(self, request: RequestView, *, cached_tokens: int | None, now: float) -> None:
        """Learn how fast the KV came over; the decode worker's step starts to count."""
        booking = self._bookings.get(id(request))
        if booking is None:
            return
        name = booking.decode.name
        if booking.prefill is None:
            self._learn_prefill(request, booking, None, cached_tokens, now)
        else:
            self.index.insert(name, booking.keys, now)
            if booking.prefilled_at is not None:
                self._learn_transfer(request, booking, booking.prefilled_at, now)
        team = self.load.team(name)
        booking.computed_before = None if self._computing[team] else self._computed[team]
        booking.streaming_at = now
        booking.rows, booking.context_tokens = self.load.step_features(name)

    def ended(self, request: RequestView, *, output_tokens: int | None, now: float) -> None:
        """Give the work back; learn how long the answer was and what a decode step took."""
        booking = self._bookings.pop(id(request), None)
        if booking is None:
            return
        name = booking.decode.name
        if booking.streaming_at and output_tokens is not None:
            self._outputs_seen = self._outputs_seen * _OUTPUT_MEMORY + 1.0
            self._output_sum = self._output_sum * _OUTPUT_MEMORY + output_tokens
            self._learn_step(booking, output_tokens, now)
        self._give_back(booking, now)
        self.load.refresh(name, self.index.trust(name))

    def failed(self, request: RequestView, leg: Leg, now: float) -> None:
        """Take back what the dispatch assumed."""
        booking = self._bookings.pop(id(request), None)
        if booking is None:
            return
        self._give_back(booking, now)
        self._runs.pop(booking.computes.name, None)
        if booking.prefilled_at is None:
            self.index.retract(booking.computes.name, booking.keys, kept_chunks=booking.promised)

    def restarted(self, worker: Worker) -> None:
        """Forget what the worker held and how fast it was."""
        self.index.clear_worker(worker.name)
        self.rates.forget(worker.name)
        self.learned_chunks.pop(worker.name, None)
        self._runs.pop(worker.name, None)
        self.load.refresh(worker.name, 1.0)

    def _turn_over(self, new_tokens: float, now: float) -> None:
        """A cache has turned over when as many tokens were computed into it as it holds."""
        self._new_tokens += new_tokens
        if self._new_tokens >= self.load.kv_tokens_capacity * _TURNOVER:
            self._new_tokens = 0.0
            self.index.turn(now)

    # --- learning

    def _learn_prefill(
        self,
        request: RequestView,
        booking: _Booking,
        prompt_tokens: int | None,
        cached_tokens: int | None,
        now: float,
    ) -> None:
        name, total = booking.computes.name, prompt_tokens or booking.prompt_tokens
        took = self._prompt_done(booking, now)
        if cached_tokens is not None:
            found = round(cached_tokens / request.key_tokens) if request.key_tokens else 0
            self.index.confirm(
                name, booking.keys, promised_chunks=booking.promised, cached_chunks=found, now=now
            )
            self._add_to_run(name, max(total - cached_tokens, 1), cached_tokens, took or 0.0)
        self.load.refresh(name, self.index.trust(name))

    def _add_to_run(self, name: str, uncached_tokens: float, cached_tokens: float, seconds: float) -> None:
        run = self._runs.setdefault(name, _Run())
        run.prompts += 1
        run.uncached_tokens += uncached_tokens
        run.pairs += attended_pairs(uncached_tokens, cached_tokens)
        run.seconds += seconds
        if run.prompts >= _RUN_PROMPTS or not self.load.prompts_waiting(name):
            del self._runs[name]
            self.rates.prefilled_several(
                name,
                prompts=run.prompts,
                uncached_tokens=run.uncached_tokens,
                pairs=run.pairs,
                seconds=run.seconds,
            )

    def _learn_transfer(self, request: RequestView, booking: _Booking, since: float, now: float) -> None:
        assert booking.prefill is not None
        held = self.cached_tokens(request, booking.decode.name, booking.known_on_decode)
        moved = (booking.prompt_tokens - held) * self.kv_bytes_per_token
        step_s = self.load.decode.step_s[self.load.row(booking.decode.name)]
        self.rates.transferred(
            booking.prefill.name,
            booking.decode.name,
            kv_bytes=round(moved),
            seconds=max(now - since - step_s, 0),
        )

    def _learn_step(self, booking: _Booking, output_tokens: int, now: float) -> None:
        name = booking.decode.name
        team = self.load.team(name)
        # Steps that carried chunks of prompts along say nothing of what a step takes by itself.
        undisturbed = not self._computing[team] and booking.computed_before == self._computed[team]
        if output_tokens < 2 or not undisturbed:
            return
        rows, context = self.load.step_features(name)
        self.rates.decoded(
            name,
            rows=(booking.rows + rows) / 2,
            context_tokens=(booking.context_tokens + context) / 2,
            seconds=(now - booking.streaming_at) / (output_tokens - 1),
        )

    def _prompt_done(self, booking: _Booking, now: float) -> float | None:
        if booking.prefill is None and not booking.computed:
            booking.computed = True
            team = self.load.team(booking.decode.name)
            self._computing[team] -= 1
            self._computed[team] += 1
        return self.load.prompt_done(booking.computes.name, id(booking.request), now)

    def _give_back(self, booking: _Booking, now: float) -> None:
        self._prompt_done(booking, now)
        self.load.sequence_removed(booking.decode.name, **booking.sequence)
