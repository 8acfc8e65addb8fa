"""What the routing has learned: the prefix index, the rates, and the load that its own dispatches make.

One memory for all policies of a proxy, so that a policy can be swapped, or run in another's shadow, without
starting blind. It is an `Observer`: the exchanges feed it; policies only read.
"""

from collections import Counter
from dataclasses import dataclass

from xxhash import xxh3_64_intdigest

from .fleet import Worker
from .load import DecodeRow, Load, PrefillRow, WorkerFacts
from .memory_config import KV_BYTES_PER_TOKEN, IndexConfig
from .observer import Leg
from .policy import Decision
from .prefix_index import NO_MATCH, PrefixIndex, PrefixMatch, prefix_keys
from .rate_config import RateConfig
from .rates import Rates, attended_pairs
from .sessions import Sessions
from .view import RequestView

_OUTPUT_MEMORY = 0.98
_RUN_PROMPTS = 8
_TURNOVER = 0.6
"""The index forgets what was not used while so much of all KV pools was written anew, or twice so much."""


@dataclass
class _Run:
    """Prompts that one worker answered without a pause between them.

    Rates are learned from whole runs: chunks of neighbours share a step, so that a single prompt's time says
    little about its own work.
    """

    prompts: int = 0
    uncached_tokens: float = 0.0
    pairs: float = 0.0
    seconds: float = 0.0


class _Booking:
    """One request in flight."""

    __slots__ = (
        "computed", "computed_before", "computes", "context_tokens", "decision", "keys", "known_on_decode",
        "prefilled_at", "promised", "queue", "request", "reserved_tokens", "step_rows", "step_tokens",
        "steps", "streaming_at", "team",
    )  # fmt: skip

    def __init__(
        self, request: RequestView, keys: list[int], decision: Decision, queue: PrefillRow, steps: DecodeRow
    ) -> None:
        self.request = request
        """Held so that no other object takes its identity."""
        self.keys = keys
        self.decision = decision
        self.computes = (decision.prefill or decision.decode).name
        """Who computes the prompt."""
        self.queue = queue
        """Of that one."""
        self.steps = steps
        self.team = steps.team
        """Who takes these steps as it was dispatched: it may be another by the end."""
        self.promised = 0
        self.known_on_decode = 0
        self.context_tokens = self.reserved_tokens = 0.0
        """Both as expected of the sequence."""
        self.computed = False
        """Decode by itself computed the prompt, or it was given up."""
        self.prefilled_at: float | None = None
        self.streaming_at: float | None = None
        self.computed_before: int | None = None
        """Prompts that its team had computed itself when the stream began; None: one was under way."""
        self.step_rows = self.step_tokens = 0.0
        """Both of the step that the stream began in."""


class RoutingMemory:
    """Learns from every exchange; answers policies."""

    def __init__(
        self,
        index: IndexConfig,
        rates: RateConfig,
        *,
        now: float,
        kv_bytes_per_token: float = KV_BYTES_PER_TOKEN,
    ) -> None:
        self.index_config = index
        self.index = PrefixIndex(max_bytes=index.max_bytes, max_age_s=index.max_age_s, now=now)
        self.sessions = Sessions(most=index.max_sessions, max_age_s=index.max_age_s)
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
        self._outputs_seen = 0.0
        self._output_sum = 0.0

    # --- what policies ask

    def match(self, request: RequestView, now: float) -> PrefixMatch:
        """Return how much of the prompt each worker holds; looked up once while the index is the same."""
        keys, match = request.prefix_keys, request.prefix_match
        if keys is None:
            keys = self.keys(request)
        if not keys:
            return NO_MATCH
        if match is None or not self.index.holds_still(match, now):
            match = request.prefix_match = self.index.lookup(keys, now)
        return match

    def keys(self, request: RequestView) -> list[int]:
        """Return the prompt's keys; they are hashed once for each request."""
        if request.prefix_keys is None:
            seed = self._seed(request.model)
            chunk_bytes = self.index_config.chunk_bytes
            request.prefix_keys = prefix_keys(request.prompt, chunk_bytes, seed)
            request.key_tokens = request.prompt_tokens * chunk_bytes / max(len(request.prompt), chunk_bytes)
        return request.prefix_keys

    def _seed(self, model: str) -> int:
        """Return what keeps models apart, the same in every process."""
        seed = self._seeds.get(model)
        if seed is None:
            seed = self._seeds[model] = xxh3_64_intdigest(model.encode())
        return seed

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
        self.sessions.dispatched(request, decision, now)
        match, load = self.match(request, now), self.load
        keys, prompt_tokens = request.prefix_keys or [], request.prompt_tokens
        decode = decision.decode.name
        computes = decision.prefill.name if decision.prefill is not None else decode
        output_tokens = self.expected_output_tokens(request)
        queue, steps = load.prefill[load.number(computes)], load.decode[load.number(decode)]
        booking = self._bookings[id(request)] = _Booking(request, keys, decision, queue, steps)
        if match.longest:
            booking.promised, booking.known_on_decode = match.chunks(computes), match.chunks(decode)
        promised, known = booking.promised, booking.known_on_decode
        cached = self.cached_tokens(request, computes, promised) if promised else 0.0
        context = booking.context_tokens = prompt_tokens + output_tokens / 2
        reserved = booking.reserved_tokens = prompt_tokens + output_tokens
        uncached = prompt_tokens - cached
        seconds = queue.predict(uncached, cached)
        load.prompt_sent(queue, id(request), seconds=seconds, uncached_tokens=uncached, now=now)
        if decision.prefill is None:
            steps.team.computing += 1
        load.sequence_added(steps, context, reserved)
        if keys:
            # The decode worker of a pair has the prompt only once it streams: see there.
            self.index.insert(computes, keys, now)
            self._count_new(request, decision, promised, known, now)

    def prefilled(
        self, request: RequestView, *, prompt_tokens: int | None, cached_tokens: int | None, now: float
    ) -> None:
        """Learn how fast the prefill worker is and how much of the index is true of it."""
        booking = self._bookings.get(id(request))
        if booking is None or booking.decision.prefill is None:
            return
        booking.prefilled_at = now
        self._learn_prefill(booking, prompt_tokens, cached_tokens, now)

    def streaming(self, request: RequestView, *, cached_tokens: int | None, now: float) -> None:
        """Learn how fast the KV came over; the decode worker's step starts to count."""
        booking = self._bookings.get(id(request))
        if booking is None:
            return
        if booking.decision.prefill is None:
            self._learn_prefill(booking, None, cached_tokens, now)
        else:
            if booking.keys and self.load.holds(booking.steps):
                self.index.insert(booking.decision.decode.name, booking.keys, now)
            if booking.prefilled_at is not None:
                self._learn_transfer(booking, booking.prefilled_at, now)
        team = booking.team
        booking.computed_before = None if team.computing else team.computed
        booking.streaming_at = now
        booking.step_rows, booking.step_tokens = booking.steps.step_features()

    def ended(self, request: RequestView, *, output_tokens: int | None, now: float) -> None:
        """Give the work back; learn how long the answer was and what a decode step took."""
        booking = self._bookings.pop(id(request), None)
        if booking is None:
            return
        if booking.streaming_at is not None and output_tokens is not None:
            self._outputs_seen = self._outputs_seen * _OUTPUT_MEMORY + 1.0
            self._output_sum = self._output_sum * _OUTPUT_MEMORY + output_tokens
            self._learn_step(booking, output_tokens, now - booking.streaming_at, now)
        self._give_back(booking, now)

    def failed(self, request: RequestView, leg: Leg, now: float) -> None:
        """Take back what the dispatch assumed."""
        booking = self._bookings.pop(id(request), None)
        if booking is None:
            return
        self._give_back(booking, now)
        self._runs.pop(booking.computes, None)
        if booking.prefilled_at is None:
            self.index.retract(booking.computes, booking.keys, kept_chunks=booking.promised)

    def restarted(self, worker: Worker) -> None:
        """Forget what the worker held and how fast it was."""
        name = worker.name
        self.index.clear_worker(name)
        self.sessions.restarted(worker)
        self.rates.forget(name)
        self.learned_chunks.pop(name, None)
        self._runs.pop(name, None)
        number = self.load.find(name)
        if number is not None:
            self.load.prefill[number].trust = 1.0
            self.load.learned(number)

    def removed(self, worker: Worker) -> None:
        """Forget that there was such a worker."""
        self.restarted(worker)
        self.sessions.removed(worker)
        self.load.forget(worker.name)

    def _count_new(
        self, request: RequestView, decision: Decision, promised: int, known_on_decode: int, now: float
    ) -> None:
        """Count what the workers did not have; tell the index when their caches have turned over."""
        chunks = len(request.prefix_keys or ())
        new = chunks - promised
        computes = decision.prefill or decision.decode
        self.learned_chunks[computes.name] += new
        if decision.prefill is not None:
            self.learned_chunks[decision.decode.name] += chunks - known_on_decode
            new += chunks - known_on_decode
        self._new_tokens += new * request.key_tokens
        # A cache has turned over when as many tokens were computed into it as it holds.
        if self._new_tokens >= self.load.kv_tokens_capacity * _TURNOVER:
            self._new_tokens = 0.0
            self.index.turn(now)

    # --- learning

    def _learn_prefill(
        self, booking: _Booking, prompt_tokens: int | None, cached_tokens: int | None, now: float
    ) -> None:
        request, name = booking.request, booking.computes
        took = self._prompt_done(booking, now)
        if cached_tokens is None or not self.load.holds(booking.queue):
            return
        total = prompt_tokens or request.prompt_tokens
        if booking.keys:
            found = round(cached_tokens / request.key_tokens) if request.key_tokens else 0
            self.index.confirm(
                name, booking.keys, promised_chunks=booking.promised, cached_chunks=found, now=now
            )
            booking.queue.trust = self.index.trust(name)
        if now >= booking.queue.fit.due_at:
            self._add_to_run(booking, max(total - cached_tokens, 1), cached_tokens, took or 0.0, now)

    def _add_to_run(
        self, booking: _Booking, uncached_tokens: float, cached_tokens: float, seconds: float, now: float
    ) -> None:
        name = booking.computes
        run = self._runs.setdefault(name, _Run())
        run.prompts += 1
        run.uncached_tokens += uncached_tokens
        run.pairs += attended_pairs(uncached_tokens, cached_tokens)
        run.seconds += seconds
        if run.prompts >= _RUN_PROMPTS or not booking.queue.prompts:
            del self._runs[name]
            self.rates.prefilled_several(
                name,
                prompts=run.prompts,
                uncached_tokens=run.uncached_tokens,
                pairs=run.pairs,
                seconds=run.seconds,
                now=now,
            )
            self.load.learned(booking.queue.number)

    def _learn_transfer(self, booking: _Booking, since: float, now: float) -> None:
        assert booking.decision.prefill is not None
        request, giver, taker = booking.request, booking.decision.prefill.name, booking.decision.decode.name
        there = self.load.holds(booking.queue) and self.load.holds(booking.steps)
        if not there or now < self.rates.transfer_fit(giver, taker).due_at:
            return
        held = self.cached_tokens(request, taker, booking.known_on_decode)
        moved = (request.prompt_tokens - held) * self.kv_bytes_per_token
        seconds = max(now - since - booking.steps.step_s, 0)
        self.rates.transferred(giver, taker, kv_bytes=round(moved), seconds=seconds, now=now)

    def _learn_step(self, booking: _Booking, output_tokens: int, seconds: float, now: float) -> None:
        team, name = booking.team, booking.decision.decode.name
        # Steps that carried chunks of prompts along say nothing of what a step takes by itself.
        undisturbed = not team.computing and booking.computed_before == team.computed
        undisturbed = undisturbed and team is booking.steps.team and self.load.holds(booking.steps)
        if output_tokens < 2 or not undisturbed or now < booking.steps.fit.due_at:
            return
        rows, context = booking.steps.step_features()
        self.rates.decoded(
            name,
            rows=(booking.step_rows + rows) / 2,
            context_tokens=(booking.step_tokens + context) / 2,
            seconds=seconds / (output_tokens - 1),
            now=now,
        )
        self.load.learned(booking.steps.number)

    def _prompt_done(self, booking: _Booking, now: float) -> float | None:
        if booking.computed:
            return None
        booking.computed = True
        if booking.decision.prefill is None:
            booking.team.computing -= 1
            booking.team.computed += 1
        return self.load.prompt_done(booking.queue, id(booking.request), now)

    def _give_back(self, booking: _Booking, now: float) -> None:
        self._prompt_done(booking, now)
        self.load.sequence_removed(booking.steps, booking.context_tokens, booking.reserved_tokens)
