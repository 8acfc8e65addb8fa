"""Admin calls that changed the fleet, kept for a process that starts later to make up for. No I/O."""

import msgspec


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One call."""

    method: str
    path: str
    body: bytes = b""


class Changes:
    """The calls that matter still: at most three for each worker."""

    def __init__(self) -> None:
        self._by_worker: dict[str, list[Change]] = {}

    def all(self) -> list[Change]:
        """Return them, to be made again in this order."""
        return [change for changes in self._by_worker.values() for change in changes]

    def note(self, worker: str, change: Change) -> None:
        """A call about `worker` was made."""
        changes = self._by_worker.setdefault(worker, [])
        drains = change.path.endswith("/drain")
        if change.method == "DELETE" and not drains:
            added = changes[:1] if changes and changes[0].path.endswith("/workers") else []
            # One that the configuration lists is removed again; one that was added is not added again.
            changes[:] = [] if added else [change]
        elif change.method == "DELETE":
            changes[:] = [each for each in changes if not each.path.endswith("/drain")]
        elif change not in changes:
            changes.append(change)
        if not changes:
            del self._by_worker[worker]
