"""Waiting requests start by priority, fairly between tenants, and nobody waits for ever."""

from collections import Counter
from itertools import count, cycle, islice

from hypothesis import given, settings
from hypothesis import strategies as st

from baton.proxy.routing.fair_queue import FairQueue
from baton.proxy.routing.tenants import Terms
from baton.proxy.routing.ticket import Ticket
from baton.proxy.routing.view import RequestView

SHARE_EVERY = 4
_numbers = count()


def ticket(tenant: str = "t", *, priority: int = 0, tokens: int = 100, weight: float = 1.0) -> Ticket:
    view = RequestView(f"r{next(_numbers)}", "demo", prompt_tokens=tokens, output_tokens=0)
    return Ticket(view, Terms(tenant=tenant, priority=priority, weight=weight))


def queue(*tickets: Ticket, share_every: int = 1000) -> FairQueue:
    made = FairQueue(share_every)
    for each in tickets:
        made.push(each)
    return made


def started(waiting: FairQueue, most: int = 10**6) -> list[Ticket]:
    return [waiting.start() for _ in range(min(most, len(waiting)))]


def test_one_tenant_is_served_in_order_of_arrival() -> None:
    tickets = [ticket() for _ in range(5)]

    assert started(queue(*tickets)) == tickets


def test_the_higher_priority_goes_first() -> None:
    low, high, middle = ticket(priority=-1), ticket(priority=5), ticket(priority=0)

    assert started(queue(low, high, middle)) == [high, middle, low]


def test_a_tenant_with_many_requests_does_not_delay_one_with_few() -> None:
    flood = [ticket("flood") for _ in range(50)]
    late = ticket("late")

    assert late in started(queue(*flood, late), most=2)


def test_tenants_share_tokens_not_requests() -> None:
    waiting = queue(
        *(ticket("large", tokens=400) for _ in range(100)), *(ticket("small", tokens=100) for _ in range(100))
    )

    shares = Counter[str]()
    for each in started(waiting, most=100):
        shares[each.terms.tenant] += each.tokens
    assert abs(shares["large"] - shares["small"]) <= 400


def test_a_weight_of_three_is_worth_three_times_the_tokens() -> None:
    waiting = queue(
        *(ticket(name, weight=w) for _ in range(100) for name, w in (("three", 3.0), ("one", 1.0)))
    )

    served = Counter(each.terms.tenant for each in started(waiting, most=80))
    assert abs(served["three"] - 60) <= 2


def test_a_pause_saves_nothing_up() -> None:
    waiting = queue(*(ticket("busy") for _ in range(40)), ticket("pausing"))
    started(waiting, most=21)
    for _ in range(20):
        waiting.push(ticket("pausing"))

    served = Counter(each.terms.tenant for each in started(waiting, most=10))
    assert served["busy"] >= 4


def test_a_low_priority_gets_one_turn_in_so_many() -> None:
    waiting = queue(*(ticket(priority=9) for _ in range(100)), share_every=SHARE_EVERY)
    low, lower = ticket(priority=1), ticket(priority=0)
    waiting.push(low)
    waiting.push(lower)

    assert {low, lower} <= set(started(waiting, most=3 * SHARE_EVERY))


def test_the_least_is_the_newest_of_the_lowest_priority() -> None:
    tickets = [ticket(priority=1), ticket(priority=0), ticket(priority=0), ticket(priority=1)]

    assert queue(*tickets).least() is tickets[2]


def test_what_was_removed_does_not_start() -> None:
    first, second = ticket("a"), ticket("b")
    waiting = queue(first, second)
    waiting.remove(first)

    assert started(waiting) == [second]
    assert (len(waiting), waiting.tokens, waiting.waiting_of("a")) == (0, 0, 0)
    assert waiting.first() is None


TENANTS, LEVELS, MOST_TOKENS = "abc", (0, 1, 2), 50
ARRIVALS = st.tuples(st.sampled_from(TENANTS), st.sampled_from(LEVELS), st.integers(1, MOST_TOKENS))


@settings(max_examples=50)
@given(
    st.lists(st.one_of(ARRIVALS, st.just("start"), st.integers(0, 30)), max_size=120),
    st.integers(2, 6),
)
def test_each_request_starts_once_and_none_is_lost(steps: list[object], share_every: int) -> None:
    waiting = FairQueue(share_every)
    expected: list[Ticket] = []
    for step in steps:
        if isinstance(step, tuple):
            tenant, priority, tokens = step
            expected.append(ticket(tenant, priority=priority, tokens=tokens))
            waiting.push(expected[-1])
        elif expected and step == "start":
            first = waiting.first()
            assert waiting.start() is first
            expected.remove(first)  # type: ignore[arg-type]
        elif expected and isinstance(step, int):
            waiting.remove(expected.pop(step % len(expected)))
        assert len(waiting) == len(expected)
        assert waiting.tokens == sum(each.tokens for each in expected)
        assert set(waiting.tickets()) == set(expected)
    rest = started(waiting)
    assert len(rest) == len(expected)
    assert set(rest) == set(expected)


MOST_STARTS = (len(TENANTS) + 1) * len(LEVELS) * SHARE_EVERY
"""A priority's turn comes every `levels * share_every` starts; each other tenant goes first once at most."""


@settings(max_examples=50)
@given(
    st.lists(ARRIVALS, min_size=1, max_size=12),
    st.lists(ARRIVALS, max_size=20),
    st.sampled_from(LEVELS),
)
def test_no_flood_of_any_priority_keeps_a_request_waiting_for_ever(
    flood: list[tuple[str, int, int]], before: list[tuple[str, int, int]], priority: int
) -> None:
    waiting = queue(*(ticket(t, priority=p, tokens=n) for t, p, n in before), share_every=SHARE_EVERY)
    patient = ticket("patient", priority=priority, tokens=MOST_TOKENS)
    waiting.push(patient)

    for tenant, other_priority, tokens in islice(cycle(flood), MOST_STARTS):
        waiting.push(ticket(tenant, priority=other_priority, tokens=tokens))
        waiting.start()
    assert patient not in waiting.tickets()
