"""Why a policy decided as it did: every candidate with every term, in the policy's own unit.

A policy keeps the plain numbers it compared; they become named records only when somebody asks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from .fleet import Worker

Row = tuple[Worker | None, Worker | None, tuple[float, ...]]
"""Prefill worker, decode worker (None: the candidate does not concern that leg), terms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One worker, or pair of workers, that was considered."""

    prefill: str | None
    decode: str | None
    terms: dict[str, float]
    chosen: bool


class Why(msgspec.Struct, frozen=True, eq=False):
    """What was compared in one decision."""

    unit: str
    """`s`, or what else the terms are measured in."""
    names: tuple[str, ...]
    """Names of the terms; the last one is what was compared."""
    rows: Callable[[], list[Row]]
    """Makes the candidates, from numbers as they were when it was decided."""
    chosen: int
    """So many rows, the first ones, were taken."""

    def candidates(self) -> list[Candidate]:
        """Return all candidates, the chosen ones first."""
        return [
            Candidate(
                prefill=prefill.name if prefill is not None else None,
                decode=decode.name if decode is not None else None,
                terms=dict(zip(self.names, terms, strict=True)),
                chosen=place < self.chosen,
            )
            for place, (prefill, decode, terms) in enumerate(self.rows())
        ]
