"""What happens when: actions in order of time, and of insertion where times are equal."""

import heapq
from collections.abc import Callable
from itertools import count

Action = Callable[[float], None]


class EventQueue:
    """Runs actions with the time they were set for."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Action]] = []
        self._order = count()
        self.now = 0.0

    def at(self, time: float, action: Action) -> None:
        """Have `action` run at `time`."""
        heapq.heappush(self._heap, (time, next(self._order), action))

    def run(self) -> None:
        """Run until nothing is left to happen."""
        heap = self._heap
        while heap:
            self.now, _, action = heapq.heappop(heap)
            action(self.now)
