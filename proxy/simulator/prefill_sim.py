"""A simulated prefill worker: prompts in order, several or part of one in a step, over an LRU block cache."""

from collections import deque
from collections.abc import Callable

from .block_cache import BlockCache
from .engine_model import EngineModel
from .events import EventQueue
from .job import Job

Answered = Callable[[Job, float], None]


class PrefillSim:
    """Takes jobs, and calls `answered` when a prompt's KV is complete."""

    def __init__(self, name: str, model: EngineModel, events: EventQueue, answered: Answered) -> None:
        self.name = name
        self._model = model
        self._events = events
        self._answered = answered
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._stepping = False
        self.cache = BlockCache(model.prefill.kv_tokens // model.block_tokens)
        self.busy_s = 0.0
        self.computed_tokens = 0

    def submit(self, job: Job, now: float) -> None:
        """A prompt arrived."""
        self._waiting.append(job)
        self._step(now)

    def release(self, job: Job, now: float) -> None:
        """Its KV was pulled."""
        assert job.prefill_lease is not None
        self.cache.release(job.prefill_lease)
        self._step(now)

    def _step(self, now: float) -> None:
        if self._stepping:
            return
        budget = self._model.prefill.budget_tokens
        chunks: list[tuple[Job, int]] = []
        for job in self._running:
            chunk = min(budget, job.prompt_tokens - job.computed_tokens)
            chunks.append((job, chunk))
            budget -= chunk
        while budget and self._waiting and self._admit(self._waiting[0], now):
            job = self._waiting.popleft()
            self._running.append(job)
            chunk = min(budget, job.prompt_tokens - job.computed_tokens)
            chunks.append((job, chunk))
            budget -= chunk
        if not chunks:
            return
        self._stepping = True
        seconds = self._step_s(chunks)
        self.busy_s += seconds
        self._events.at(now + seconds, lambda end: self._end_step(chunks, end))

    def _admit(self, job: Job, now: float) -> bool:
        block_tokens = self._model.block_tokens
        lease = self.cache.reserve(job.request.keys, -(-job.prompt_tokens // block_tokens))
        if lease is None:
            assert self.cache.in_use, f"{self.name}: a prompt of {job.prompt_tokens} tokens never fits"
            return False
        job.prefill_lease = lease
        # The last token is always computed: its output is what is sampled from.
        job.cached_tokens = job.computed_tokens = min(lease.matched * block_tokens, job.prompt_tokens - 1)
        job.taken_up_at = now
        return True

    def _step_s(self, chunks: list[tuple[Job, int]]) -> float:
        model = self._model.prefill
        tokens = sum(chunk for _, chunk in chunks)
        pairs = sum(chunk * (job.computed_tokens + chunk / 2) for job, chunk in chunks)
        return model.step_base_s + model.token_s * tokens + model.pair_s * pairs

    def _end_step(self, chunks: list[tuple[Job, int]], now: float) -> None:
        self._stepping = False
        for job, chunk in chunks:
            job.computed_tokens += chunk
            self.computed_tokens += chunk
            publish_computed(self.cache, job, self._model.block_tokens)
            if job.computed_tokens == job.prompt_tokens:
                self._running.remove(job)
                self._answered(job, now)
        self._step(now)


def publish_computed(cache: BlockCache, job: Job, block_tokens: int) -> None:
    """Share the whole blocks that the job has computed by now."""
    lease = job.prefill_lease or job.decode_lease
    assert lease is not None
    whole = min(job.computed_tokens // block_tokens, len(job.request.keys))
    cache.publish(lease, job.request.keys[len(lease.keys) : whole])
