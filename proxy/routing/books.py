"""What a decision adds to the work its workers have in flight, and what the end of each leg takes away."""

from .policy import Decision
from .view import RequestView


def book(request: RequestView, decision: Decision) -> None:
    """Count the request among the work of whom it was given to."""
    decision.decode.decode_requests += 1
    decision.decode.decode_tokens += request.prompt_tokens + request.output_tokens
    if decision.prefill is not None:
        decision.prefill.prefill_requests += 1
        decision.prefill.prefill_tokens += request.prompt_tokens


def prefill_done(request: RequestView, decision: Decision) -> None:
    """Take the prefill leg off the books, if there was one: once for each decision."""
    if decision.prefill is not None:
        decision.prefill.prefill_requests -= 1
        decision.prefill.prefill_tokens -= request.prompt_tokens


def decode_done(request: RequestView, decision: Decision) -> None:
    """Take the decode leg off the books: once for each decision."""
    decision.decode.decode_requests -= 1
    decision.decode.decode_tokens -= request.prompt_tokens + request.output_tokens
