"""Which workers of a fleet are ranks that share experts, and where those meet when they start. No I/O."""

from collections.abc import Mapping, Sequence

import msgspec


class RankPlace(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank is told when it starts."""

    rank: int
    size: int
    port: int
    """Where the group meets."""


class RankGroups:
    """The groups as they would start now; they change while they serve."""

    def __init__(self, groups: Mapping[int, Sequence[str]]) -> None:
        """Take the names of each group's workers by its port."""
        self._groups = {port: list(names) for port, names in groups.items()}

    def mates(self, name: str) -> list[str]:
        """Return the whole group of a worker, itself included; empty: it is in none."""
        return next((names for names in self._groups.values() if name in names), [])

    def place(self, name: str) -> RankPlace | None:
        """Return a worker's place if its group started now; none for one by itself."""
        for port, names in self._groups.items():
            if name in names:
                return RankPlace(rank=names.index(name), size=len(names), port=port)
        return None

    def add(self, name: str, beside: str) -> None:
        """Let a worker be the last rank of another one's group."""
        self.mates(beside).append(name)

    def remove(self, name: str) -> None:
        """Take a worker out of its group."""
        mates = self.mates(name)
        if name in mates:
            mates.remove(name)
