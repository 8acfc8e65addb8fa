"""Every edge of the hand-over ledger, and that no other exists."""

import itertools

import pytest

from baton.proxy.routing.ledger import (
    TRANSITIONS,
    HandoverEvent,
    HandoverState,
    Ledger,
    LedgerError,
)

WAYS = {
    HandoverState.CREATED: [],
    HandoverState.ADVERTISED: [HandoverEvent.ADVERTISE],
    HandoverState.GRANTED: [HandoverEvent.ADVERTISE, HandoverEvent.GRANT],
    HandoverState.PULLED: [HandoverEvent.ADVERTISE, HandoverEvent.GRANT, HandoverEvent.PULL],
    HandoverState.RELEASING: [HandoverEvent.RELEASE],
}


EDGES = list(itertools.product(WAYS, HandoverEvent))


def ledger_in(state: HandoverState) -> Ledger:
    ledger = Ledger()
    ledger.create("h", prefill="p1", tokens=10)
    for event in WAYS[state]:
        ledger.on("h", event)
    assert ledger.counts() == {state: 1}
    return ledger


@pytest.mark.parametrize(("state", "event"), EDGES)
def test_each_event_leads_where_the_table_says_or_is_refused(
    state: HandoverState, event: HandoverEvent
) -> None:
    ledger = ledger_in(state)
    target = TRANSITIONS.get((state, event))
    if target is None:
        with pytest.raises(LedgerError, match=state.value):
            ledger.on("h", event)
        assert ledger.counts() == {state: 1}
    else:
        ledger.on("h", event)
        assert ledger.counts() == ({} if target is HandoverState.FREED else {target: 1})


def test_every_state_can_end() -> None:
    ends = {state for (state, event), target in TRANSITIONS.items() if target is HandoverState.FREED}
    releasable = {state for (state, event) in TRANSITIONS if event is HandoverEvent.RELEASE}

    assert set(WAYS) - ends <= releasable
    assert HandoverState.FREED not in {state for state, _ in TRANSITIONS}


def test_outstanding_tokens_are_what_prefill_told() -> None:
    ledger = Ledger()
    ledger.create("a", prefill="p1", tokens=10)
    ledger.create("b", prefill="p1", tokens=10)
    ledger.advertise("a", 300)

    assert ledger.outstanding_tokens() == {"p1": 310}


def test_a_handle_has_one_owner() -> None:
    ledger = Ledger()
    ledger.create("a", prefill="p1", tokens=10)

    with pytest.raises(LedgerError, match="exists already"):
        ledger.create("a", prefill="p2", tokens=10)
    with pytest.raises(LedgerError, match="unknown"):
        ledger.on("z", HandoverEvent.FREE)


def test_an_explicit_release_is_counted_apart() -> None:
    ledger = ledger_in(HandoverState.GRANTED)
    ledger.on("h", HandoverEvent.RELEASE)
    ledger.on("h", HandoverEvent.RELEASED)

    assert (len(ledger), ledger.freed, ledger.released) == (0, 1, 1)
