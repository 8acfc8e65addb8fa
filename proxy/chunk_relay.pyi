"""What `chunk_relay.c` offers once it is compiled; only `native_relay.py` makes use of it."""

class Stream:
    """One stream that is, or was, relayed."""

    @property
    def owner(self) -> object:
        """Who attached it; None once `detach` was called."""

    @property
    def received(self) -> int:
        """Bytes that were relayed."""

    @property
    def events(self) -> int:
        """Server-sent events in them."""

    @property
    def usage(self) -> bytes | None:
        """The last read that told usage."""

    @property
    def rest(self) -> bytes | None:
        """What was read and is still to be relayed, once `pump` has returned it; None: memory ran out."""

    @property
    def rest_is_whole(self) -> bool:
        """Whether `rest` ends whole chunks that are counted already, and is only to be written."""

    def detach(self) -> None:
        """Relay no more, and let go of the owner."""

    def forget(self) -> None:
        """Keep no more, and free what was kept."""

    def kept(self) -> bytes:
        """Return what was relayed, where it is kept."""

class ChunkRelay:
    """The streams of one event loop that are relayed."""

    def attach(self, worker: int, client: int, keeps: bool, owner: object, /) -> Stream:
        """Relay from a worker's socket to a client's from now on, and keep what is relayed if so told."""

    def pump(self) -> list[Stream]:
        """Relay what has arrived. Return the streams that were detached."""

    def fileno(self) -> int:
        """Return a descriptor that is readable when `pump` has work."""

    def close(self) -> None:
        """Relay no more."""
