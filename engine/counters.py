"""What an engine counts since its start. Gauges are not here: they are read off the scheduler's lists."""

from collections import Counter
from dataclasses import dataclass, field

from .sequence import Request


@dataclass(slots=True)
class Counters:
    """Sums since the start, as `EngineStats` reports them."""

    prefix_queries_tokens: int = 0
    prefix_hits_tokens: int = 0
    prompt_tokens: int = 0
    prompt_tokens_local_cache: int = 0
    prompt_tokens_pulled: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    drafts: int = 0
    """Chains of guesses that a step checked"""
    draft_tokens: int = 0
    """Guesses in them"""
    accepted_tokens: Counter[int] = field(default_factory=Counter)
    """Right guesses by their place in the chain, from 0"""
    leases_expired: int = 0
    pulls_failed: Counter[str] = field(default_factory=Counter)
    kv_bytes_pulled: int = 0

    @property
    def prompt_tokens_local_compute(self) -> int:
        """Prompt tokens that neither the prefix cache nor a pull gave."""
        return self.prompt_tokens - self.prompt_tokens_local_cache - self.prompt_tokens_pulled

    def count_admission(self, request: Request, cached_tokens: int) -> None:
        """Book what the prefix cache was asked for and what it gave."""
        self.prefix_queries_tokens += request.prompt_tokens
        self.prefix_hits_tokens += cached_tokens

    def count_drafts(self, guessed: int, right: int) -> None:
        """Book a chain of guesses, of which the first `right` ones were."""
        self.drafts += 1
        self.draft_tokens += guessed
        self.accepted_tokens.update(range(right))

    def count_first_token(self, request: Request) -> None:
        """Book a request's prompt under where its KV came from."""
        self.prompt_tokens += request.prompt_tokens
        self.prompt_tokens_local_cache += request.timeline.cached_tokens
        self.prompt_tokens_pulled += request.timeline.pulled_tokens
