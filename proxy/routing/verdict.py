"""What admission says of a request: start it, or refuse it and why; and how often it said so."""

import enum
from dataclasses import dataclass, field

import msgspec

from .policy import Decision
from .ticket import Ticket


class RefusalReason(enum.Enum):
    """Why a request is not served, for clients and metrics."""

    QUEUE_FULL = "queue_full"
    """No room, and none in the queue either; or pushed out by a higher priority."""
    TENANT_LIMIT = "tenant_limit"
    """The tenant has as many requests waiting as it may."""
    TIMEOUT = "queue_timeout"
    """It waited as long as it may."""
    NO_WORKERS = "no_workers"
    """Nobody serves the model now."""


class Start(msgspec.Struct, frozen=True):
    """Send the first leg of `decision`: its decode slot is granted."""

    ticket: Ticket
    decision: Decision
    waited_s: float


class Refuse(msgspec.Struct, frozen=True):
    """Answer 429, or 503 without workers."""

    ticket: Ticket
    reason: RefusalReason
    retry_after_s: int


Verdict = Start | Refuse


@dataclass(slots=True)
class AdmissionCounts:
    """What happened since the start."""

    started_at_once: int = 0
    started_after_wait: int = 0
    waited_s: float = 0.0
    """Sum over those that started."""
    refused: dict[RefusalReason, int] = field(default_factory=lambda: dict.fromkeys(RefusalReason, 0))
    cancelled: int = 0
    """Released while they waited."""
    beyond_capacity: int = 0
    """Slots granted where there was no room, after a failure."""
