"""One worker's KV blocks, in number only: in use, cached and free to be evicted, or empty."""

from collections import OrderedDict
from collections.abc import Sequence


class Lease:
    """The blocks of one request: those of `keys` are shared, the others are its own."""

    __slots__ = ("keys", "matched", "own")

    def __init__(self, keys: list[int], own: int) -> None:
        self.keys = keys
        self.matched = len(keys)
        """Blocks that were there when the lease was taken."""
        self.own = own


class BlockCache:
    """Least recently used blocks are evicted first; blocks in use never."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._empty = blocks
        self._users: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def in_use(self) -> int:
        """Blocks that cannot be evicted now."""
        return self.blocks - self._empty - len(self._idle)

    def reserve(self, keys: Sequence[int], total: int) -> Lease | None:
        """Lease `total` blocks, those of the cached leading `keys` among them; None if there is no room."""
        matched: list[int] = []
        revived = 0
        for key in keys:
            if key in self._idle:
                revived += 1
            elif key not in self._users:
                break
            matched.append(key)
        own = total - len(matched)
        if own > self._empty + len(self._idle) - revived:
            return None
        for key in matched:
            self._use(key)
        self._take(own)
        return Lease(matched, own)

    def publish(self, lease: Lease, keys: Sequence[int]) -> None:
        """Some of the lease's own blocks are computed: from now on others may share them."""
        for key in keys:
            lease.own -= 1
            if key in self._users or key in self._idle:
                self._empty += 1
            self._use(key)
            lease.keys.append(key)

    def release(self, lease: Lease) -> None:
        """The request is done with its blocks."""
        self._empty += lease.own
        lease.own = 0
        # Last block first, so that a prefix is never evicted before what builds on it.
        for key in reversed(lease.keys):
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key]
                self._idle[key] = None
        lease.keys = []

    def _use(self, key: int) -> None:
        self._idle.pop(key, None)
        self._users[key] = self._users.get(key, 0) + 1

    def _take(self, blocks: int) -> None:
        while self._empty < blocks:
            self._idle.popitem(last=False)
            self._empty += 1
        self._empty -= blocks
