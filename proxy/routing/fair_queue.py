"""The order in which waiting requests start: by priority, fair between tenants, first come first served.

Among the tenants of one priority, tokens are shared by weight with start-time fair queueing (Goyal, Vin,
Cheng 1996): the tenant with the least virtual time goes next, and pays tokens / weight for what starts. A
tenant who comes back from a pause starts at the current virtual time, so that nothing is saved up.

The highest priority goes first, but one turn in `share_every` goes to the priority that has waited longest
for one. So of L priorities that wait, each gets a turn within L * share_every. Whoever's turn it is holds the
turn until it starts: a large request cannot be overtaken for ever by small ones. No clock, no I/O.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from heapq import heappop, heappush

from .ticket import Ticket


@dataclass(slots=True)
class _Line:
    """One tenant's requests at one priority, in order of arrival."""

    tickets: OrderedDict[Ticket, None] = field(default_factory=OrderedDict)
    paid: float = 0.0
    """Virtual time at which its next request may start."""
    listed: bool = False
    """Whether the heap has it."""


class _Level:
    """All requests of one priority."""

    def __init__(self, turn: int) -> None:
        self.last_turn = turn
        self.tickets: OrderedDict[Ticket, None] = OrderedDict()
        self._lines: dict[str, _Line] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._virtual = 0.0
        self._entries = 0

    def push(self, ticket: Ticket) -> None:
        self.tickets[ticket] = None
        line = self._lines.setdefault(ticket.terms.tenant, _Line())
        line.tickets[ticket] = None
        self._list(ticket.terms.tenant, line)

    def remove(self, ticket: Ticket) -> None:
        del self.tickets[ticket]
        del self._lines[ticket.terms.tenant].tickets[ticket]

    def first(self) -> Ticket:
        """Return whose turn it is; there is somebody."""
        while True:
            line = self._lines[self._heap[0][2]]
            if line.tickets:
                return next(iter(line.tickets))
            heappop(self._heap)  # all of its requests were removed
            line.listed = False

    def start(self, ticket: Ticket) -> None:
        """Take out the first ticket and charge its tenant."""
        began, _, tenant = heappop(self._heap)
        line = self._lines[tenant]
        line.listed = False
        self._virtual = max(self._virtual, began)
        line.paid = self._virtual + ticket.tokens / ticket.terms.weight
        self.remove(ticket)
        if line.tickets:
            self._list(tenant, line)

    def _list(self, tenant: str, line: _Line) -> None:
        if not line.listed:
            line.listed = True
            line.paid = max(line.paid, self._virtual)
            self._entries += 1
            heappush(self._heap, (line.paid, self._entries, tenant))


class FairQueue:
    """The waiting requests of one model."""

    def __init__(self, share_every: int) -> None:
        self._share_every = share_every
        self._levels: dict[int, _Level] = {}
        self._turn = 0
        self._by_tenant: Counter[str] = Counter()
        self.tokens = 0
        """Of all that wait."""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def waiting_of(self, tenant: str) -> int:
        """Return how many requests of `tenant` wait."""
        return self._by_tenant[tenant]

    def tickets(self) -> list[Ticket]:
        """Return all that wait, in no particular order."""
        return [ticket for level in self._levels.values() for ticket in level.tickets]

    def push(self, ticket: Ticket) -> None:
        """Add a request at its priority."""
        priority = ticket.terms.priority
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = _Level(self._turn)
        level.push(ticket)
        self._count(ticket, 1)

    def first(self) -> Ticket | None:
        """Return whose turn it is; None if nobody waits."""
        return self._level().first() if self._levels else None

    def start(self) -> Ticket:
        """Take out and return the first request: its turn has come. Somebody waits."""
        level = self._level()
        ticket = level.first()
        self._turn += 1
        level.last_turn = self._turn
        level.start(ticket)
        self._forget(ticket, level)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        """Take out a request that will not start."""
        level = self._levels[ticket.terms.priority]
        level.remove(ticket)
        self._forget(ticket, level)

    def least(self) -> Ticket:
        """Return the request to give up first: the newest of the lowest priority. Somebody waits."""
        level = self._levels[min(self._levels)]
        return next(reversed(level.tickets))

    def _level(self) -> _Level:
        if (self._turn + 1) % self._share_every == 0:
            return min(self._levels.values(), key=lambda level: level.last_turn)
        return self._levels[max(self._levels)]

    def _forget(self, ticket: Ticket, level: _Level) -> None:
        self._count(ticket, -1)
        if not level.tickets:
            del self._levels[ticket.terms.priority]

    def _count(self, ticket: Ticket, change: int) -> None:
        self._length += change
        self.tokens += change * ticket.tokens
        self._by_tenant[ticket.terms.tenant] += change
        if not self._by_tenant[ticket.terms.tenant]:
            del self._by_tenant[ticket.terms.tenant]
