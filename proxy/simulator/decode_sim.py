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
        self.riding: tuple[Job, int] | None = None
        """The prompt that the step under way computes a part of, and how many tokens of it."""
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

    def board(self) -> None:
        """Have the next step compute what it can of the first prompt that waits for it."""
        self.riding = None
        if self.prefilling:
            job = self.prefilling[0]
            left = job.prompt_tokens - job.computed_tokens
            self.riding = job, min(self.model.decode.prefill_budget_tokens, left)

    def step_s(self) -> float:
        """Return how long a step takes here as things are."""
        model, rows = self.model.decode, len(self.batch)
        if not rows and self.riding is None:
            return 0.0
        seconds = model.step_base_s + model.row_s * model.padded(rows)
        seconds += model.experts_s * model.experts_used(rows) + model.context_token_s * self.context_tokens
        if self.riding is not None:
            job, chunk = self.riding
            pairs = chunk * (job.computed_tokens + chunk / 2)
            seconds += model.prefill_token_s * chunk + model.prefill_pair_s * pairs
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
            member.board()
        slowest = max(self.members, key=DecodeSim.step_s)
        first_s = slowest.step_s()
        if not first_s:
            self._leap = None
            return
        watched = any(member.riding or member.fresh for member in self.members)
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
        if member.riding is not None:
            # Not who was taken in since the step began: nothing of that one was computed.
            job, chunk = member.riding
            member.computed_tokens += chunk
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
