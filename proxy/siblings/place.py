"""Which of several proxy processes this one is. No I/O."""

from collections.abc import Iterator
from pathlib import Path

import msgspec


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """One process among `count`."""

    index: int
    count: int
    folder: Path
    """Where all of them have their sockets; only this user can look into it."""

    @property
    def others(self) -> Iterator["Place"]:
        """The places of its siblings."""
        return (msgspec.structs.replace(self, index=i) for i in range(self.count) if i != self.index)

    @property
    def id_suffix(self) -> str:
        """Ends the ids that its workers know requests by, so that no two processes use the same."""
        return f"-p{self.index}" if self.index else ""

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
