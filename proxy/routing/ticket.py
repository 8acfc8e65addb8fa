"""One request as admission sees it: what it needs, under which terms, and where it stands."""

import enum
from dataclasses import dataclass, field

from .tenants import Terms
from .view import RequestView


class Standing(enum.Enum):
    """Where a request stands."""

    NEW = "new"
    WAITING = "waiting"
    STARTED = "started"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Ticket:
    """Made by whoever serves the request, and kept until its release. Equal only to itself."""

    request: RequestView
    terms: Terms
    body_bytes: int = 0
    """Memory that the request takes while it waits."""
    standing: Standing = Standing.NEW
    arrived_at: float = 0.0
    due_at: float = 0.0
    """When it is refused if it still waits."""

    tokens: int = field(init=False)
    """KV tokens that a decode worker sets aside: the prompt, and every answer's expected length."""

    def __post_init__(self) -> None:
        self.tokens = self.request.prompt_tokens + self.request.output_tokens * self.request.answers
