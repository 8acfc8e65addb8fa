"""Request ids that no two requests in flight share, so that aborting one never aborts another.

Clients may send the same `X-Request-Id` twice, or again while an abort of its first use is still under way.
"""


class RequestIds:
    """Ids in use, counted by their holders: the request itself, and every abort under way for it."""

    def __init__(self, suffix: str = "") -> None:
        """`suffix` ends every id, where several processes share the workers."""
        self._suffix = suffix
        self._held: dict[str, int] = {}
        self._copies = 0

    def __len__(self) -> int:
        return len(self._held)

    def claim(self, wanted: str) -> str:
        """Return `wanted`, or a variant of it while it is in use; held until released."""
        unique = wanted + self._suffix
        while unique in self._held:
            self._copies += 1
            unique = f"{wanted}-{self._copies}{self._suffix}"
        self._held[unique] = 1
        return unique

    def hold(self, request_id: str) -> None:
        """Add a holder."""
        self._held[request_id] += 1

    def adopt(self, request_id: str) -> None:
        """Hold an id that another process claimed."""
        self._held[request_id] = self._held.get(request_id, 0) + 1

    def release(self, request_id: str) -> None:
        """Remove a holder; the id is free when none is left."""
        left = self._held[request_id] - 1
        if left:
            self._held[request_id] = left
        else:
            del self._held[request_id]
