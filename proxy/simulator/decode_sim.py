"""Simulated decode workers: admission by KV room, batches that grow and shrink, steps in lockstep.

Between two changes of any batch the steps are alike but for the growing context, so they are taken in one
leap: n steps that start with c seconds and grow by g each last n * c + g * n * (n - 1) / 2.
"""

import heapq
from collections import deque
from collections.abc import Callable
from itertools import count

from .block_cache import BlockCache
from .engine_model import EngineModel
from .events import EventQueue
from .job import Job

LONGEST_LEAP = 64
"""Steps; within a leap the slowest worker stays the slowest."""
JobEvent = Callable[[Job, float], None]


class DecodeSim:
    """One decode worker: who waits for room, who computes its own prompt, who is in the batch."""

    def __init__(self, name: str, model: EngineModel) -> None:
        self.name = name
        self.model = model
        self.cache = BlockCache(model.decode.kv_tokens // model.block_tokens)
        self.waiting: deque[Job] = deque()
        self.prefilling: deque[Job] = deque()
        self.joining: list[Job] = []
        self.fresh: list[Job] = []
        """In the batch, without a token yet."""
        self.batch: list[tuple[int, int, Job]] = []
        """By the step after which they finish."""
        self.context_tokens = 0
        self.decoded_tokens = 0
        self.computed_tokens = 0

    def admit(self, job: Job) -> bool:
        """Reserve the KV of prompt and answer, if there is room."""
        block_tokens = self.model.block_tokens
        total = -(-(job.prompt_tokens + job.request.output_tokens) // block_tokens)
        lease = self.cache.reserve(job.request.keys, total)
        if lease is None:
            assert self.cache.in_use, f"{self.name}: a request of {total} blocks never fits"
            return False
        job.decode_lease = lease
        return True

    def chunk(self) -> int:
        """Return how many prompt tokens ride along with the next step."""
        if not self.prefilling:
            return 0
        job = self.prefilling[0]
        return min(self.model.decode.prefill_budget_tokens, job.prompt_tokens - job.computed_tokens)

    def step_s(self) -> float:
        """Return how long the next step would take here."""
        model, rows, chunk = self.model.decode, len(self.batch), self.chunk()
        if not rows and not chunk:
            return 0.0
        seconds = model.step_base_s + model.row_s * model.padded(rows)
        seconds += model.experts_s * model.experts_used(rows) + model.context_token_s * self.context_tokens
        if chunk:
            before = self.prefilling[0].computed_tokens
            seconds += model.prefill_token_s * chunk + model.prefill_pair_s * chunk * (before + chunk / 2)
        return seconds


class LockstepGroup:
    """Workers that take every step together; a group of one is a worker of its own."""

    def __init__(
        self,
        members: list[DecodeSim],
        events: EventQueue,
        *,
        prefilled: JobEvent,
        first_token: JobEvent,
        finished: JobEvent,
    ) -> None:
        self.members = members
        self._events = events
        self._prefilled = prefilled
        self._first_token = first_token
        self._finished = finished
        self._step = 0
        self._leap: _Leap | None = None
        self._between_leaps = False
        self._order = count()
        self.busy_s = 0.0

    def changed(self, now: float) -> None:
        """A member has someone joining or prefilling: take it in at the next step's boundary."""
        if self._between_leaps:
            return
        if self._leap is None:
            self._start_leap(now)
        elif self._leap.cut(now):
            self._schedule(self._leap)

    def _start_leap(self, now: float) -> None:
        for member in self.members:
            self._take_in(member)
        slowest = max(self.members, key=DecodeSim.step_s)
        first_s = slowest.step_s()
        if not first_s:
            self._leap = None
            return
        watched = any(member.prefilling or member.fresh for member in self.members)
        steps = 1 if watched else LONGEST_LEAP
        for member in self.members:
            if member.batch:
                steps = min(steps, member.batch[0][0] - self._step)
        growth_s = slowest.model.decode.context_token_s * len(slowest.batch)
        self._leap = _Leap(now, first_s, growth_s, steps)
        self._schedule(self._leap)

    def _take_in(self, member: DecodeSim) -> None:
        for job in member.joining:
            last = self._step + job.request.output_tokens
            heapq.heappush(member.batch, (last, next(self._order), job))
            member.context_tokens += job.prompt_tokens
        member.fresh += member.joining
        member.joining.clear()

    def _schedule(self, leap: "_Leap") -> None:
        ends, steps = leap.ends_at(leap.steps), leap.steps
        self._events.at(ends, lambda now: self._end_leap(leap, steps, now))

    def _end_leap(self, leap: "_Leap", steps: int, now: float) -> None:
        if leap is not self._leap or steps != leap.steps:
            return
        self._step += steps
        self._leap = None
        self.busy_s += now - leap.started_at
        self._between_leaps = True
        for member in self.members:
            self._end_steps(member, steps, now)
        self._between_leaps = False
        self._start_leap(now)

    def _end_steps(self, member: DecodeSim, steps: int, now: float) -> None:
        member.context_tokens += steps * len(member.batch)
        member.decoded_tokens += steps * len(member.batch)
        for job in member.fresh:
            job.first_token_at = now
            self._first_token(job, now)
        member.fresh.clear()
        while member.batch and member.batch[0][0] == self._step:
            _, _, job = heapq.heappop(member.batch)
            member.context_tokens -= job.prompt_tokens + job.request.output_tokens
            job.finished_at = now
            self._finished(job, now)
        chunk = member.chunk()
        if chunk:
            member.computed_tokens += chunk
            job = member.prefilling[0]
            job.computed_tokens += chunk
            if job.computed_tokens == job.prompt_tokens:
                member.prefilling.popleft()
                self._prefilled(job, now)


class _Leap:
    """Several steps at once."""

    __slots__ = ("_first_s", "_growth_s", "started_at", "steps")

    def __init__(self, started_at: float, first_s: float, growth_s: float, steps: int) -> None:
        self.started_at = started_at
        self.steps = steps
        self._first_s = first_s
        self._growth_s = growth_s

    def ends_at(self, steps: int) -> float:
        return self.started_at + steps * self._first_s + self._growth_s * steps * (steps - 1) / 2

    def cut(self, now: float) -> bool:
        """End with the step that is under way at `now`; return whether that is sooner than planned."""
        low, high = 1, self.steps
        while low < high:
            middle = (low + high) // 2
            if self.ends_at(middle) >= now:
                high = middle
            else:
                low = middle + 1
        sooner = low < self.steps
        self.steps = low
        return sooner
