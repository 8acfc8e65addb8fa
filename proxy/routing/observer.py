"""What happens to a request after it was decided, told to whoever learns from it.

    dispatched -> prefilled -> streaming -> ended       over a pair
    dispatched ------------->  streaming -> ended       decode alone
         any of them -> failed -> dispatched ...        a leg failed, maybe after its first byte; the request
                                                        may be tried or continued elsewhere
         any of them -> ended                           served, refused or left

The exchange's state machine calls these, and the simulator does. Each call names the request by the object
that was dispatched, which lives until `ended`.
"""

import enum

from .fleet import Worker
from .policy import Decision
from .view import RequestView


class Leg(enum.Enum):
    """Which half of a request."""

    PREFILL = "prefill"
    DECODE = "decode"


class Observer:
    """Learns from what the exchanges see, as far as it overrides what is here. No call may fail or block.

    A base class rather than a protocol: compiled callers call the methods of a class directly.
    """

    def dispatched(self, request: RequestView, decision: Decision, now: float) -> None:
        """The request is on its way to the chosen workers."""

    def prefilled(
        self, request: RequestView, *, prompt_tokens: int | None, cached_tokens: int | None, now: float
    ) -> None:
        """The prefill worker answered, and told the prompt's true length and how much of it was cached."""

    def streaming(self, request: RequestView, *, cached_tokens: int | None, now: float) -> None:
        """The decode worker sent its first bytes; `cached_tokens` if it computed the prompt and tells."""

    def ended(self, request: RequestView, *, output_tokens: int | None, now: float) -> None:
        """Nothing of the request is in flight any more. May come twice, or without a dispatch."""

    def failed(self, request: RequestView, leg: Leg, now: float) -> None:
        """A leg failed: neither worker of the decision works on it any more.

        It may have been streaming: an answer that broke off can be continued elsewhere.
        """

    def restarted(self, worker: Worker) -> None:
        """The worker is a new process, or was removed: what it held is gone."""
