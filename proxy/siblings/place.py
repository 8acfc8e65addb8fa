"""Which of several proxy processes this one is. No I/O."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One process among `count`."""

    index: int
    count: int
    folder: Path
    """Where all of them have their sockets; only this user can look into it."""
    run: str = msgspec.field(default_factory=lambda: secrets.token_hex(4))
    """Tells this process from the one that had its place before."""

    @property
    def others(self) -> Iterator["Place"]:
        """The places of its siblings; their runs are not known."""
        return (msgspec.structs.replace(self, index=i, run="") for i in range(self.count) if i != self.index)

    @property
    def id_suffix(self) -> str:
        """Ends the ids that its workers know requests by, so that no two processes ever use the same."""
        return f"-{self.run}-p{self.index}"

    @property
    def admin_socket(self) -> Path:
        """Where its admin application listens."""
        return self.folder / f"admin-{self.index}.sock"

    @property
    def event_socket(self) -> Path:
        """Where it listens for its siblings' events."""
        return self.folder / f"events-{self.index}.sock"

    @property
    def stands_in_for(self) -> int:
        """The sibling whose unfinished requests this one ends when it dies."""
        return (self.index - 1) % self.count
