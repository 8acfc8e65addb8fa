"""One request as admission sees it: what it needs, under which terms, and where it stands."""

import enum

from .tenants import Terms
from .view import RequestView


class Standing(enum.Enum):
    """Where a request stands."""

    NEW = "new"
    WAITING = "waiting"
    STARTED = "started"
    ENDED = "ended"


class Ticket:
    """Made by whoever serves the request, and kept until its release. Equal only to itself."""

    __slots__ = ("arrived_at", "body_bytes", "due_at", "request", "standing", "terms", "tokens")

    def __init__(self, request: RequestView, terms: Terms, body_bytes: int = 0) -> None:
        self.request = request
        self.terms = terms
        self.body_bytes = body_bytes
        """Memory that the request takes while it waits."""
        self.standing = Standing.NEW
        self.arrived_at = 0.0
        self.due_at = 0.0
        """When it is refused if it still waits."""
        self.tokens = request.prompt_tokens + request.output_tokens * request.answers
        """KV tokens that a decode worker sets aside: the prompt, and every answer's expected length."""
