"""One simulated request, and the times of what happened to it."""

from dataclasses import dataclass

from ..routing.policy import Decision
from ..routing.view import RequestView
from .block_cache import Lease
from .trace import TraceRequest


@dataclass(slots=True, eq=False)
class Job:
    """A request on its way through the fleet."""

    request: TraceRequest
    view: RequestView
    decision: Decision
    computed_tokens: int = 0
    """Of the prompt, on whichever worker computes it; cached ones included."""
    cached_tokens: int = 0
    prefill_lease: Lease | None = None
    decode_lease: Lease | None = None
    kv_bytes: float = 0.0
    dispatched_at: float = 0.0
    taken_up_at: float = 0.0
    """When the prompt's computation began."""
    prefilled_at: float = 0.0
    arrived_at: float = 0.0
    """When the KV was on the decode worker."""
    first_token_at: float = 0.0
    finished_at: float = 0.0

    @property
    def prompt_tokens(self) -> int:
        """True length of the prompt."""
        return self.request.prompt_tokens
