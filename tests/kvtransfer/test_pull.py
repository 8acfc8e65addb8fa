"""A pull is finished only with bytes seen inside the lease; its blocks are free only when nothing writes."""

from collections.abc import Callable

import pytest

from baton.kvtransfer.lease import Settlement
from baton.kvtransfer.pull import (
    LATE,
    SETTLE_RETRY_S,
    TRANSITIONS,
    AskGrant,
    AskRenewal,
    CheckBlocks,
    Command,
    Connect,
    PostRead,
    PullEvent,
    PullLimits,
    PullMachine,
    PullState,
    Report,
    Settle,
)
from baton.kvtransfer.service import (
    Pull,
    PullFailed,
    PullFailure,
    PullFinished,
    QuarantineLifted,
)

TTL_S = 30.0
LIMITS = PullLimits(timeout_s=20.0, margin_s=1.0, settle_for_s=TTL_S)
ACKNOWLEDGE, CANCEL = Settle(Settlement.ACKNOWLEDGED), Settle(Settlement.CANCELLED)
LIFTED = Report(QuarantineLifted(pull_id="p1"))
Edge = tuple[PullState, PullEvent, PullState]


class TracedPull(PullMachine):
    """Remembers the edges it took."""

    def __init__(self, *, blocks: int = 2, verify: bool = False, limits: PullLimits = LIMITS) -> None:
        pull = Pull(
            pull_id="p1",
            incarnation="a",
            host="h",
            port=1,
            lease_id="r1",
            remote_block_ids=tuple(range(blocks)),
            local_block_ids=tuple(range(blocks)),
        )
        super().__init__(pull, limits=limits, block_bytes=100, verify=verify, now=0.0)
        self.edges: list[Edge] = []

    def _move(self, event: PullEvent) -> bool:
        before = self.state
        moved = super()._move(event)
        if moved:
            self.edges.append((before, event, self.state))
        return moved


def connecting(verify: bool = False, limits: PullLimits = LIMITS) -> TracedPull:
    machine = TracedPull(verify=verify, limits=limits)
    assert machine.start(0.0) == [Connect()]
    return machine


def asking(verify: bool = False, limits: PullLimits = LIMITS) -> TracedPull:
    machine = connecting(verify, limits)
    assert machine.on_connected(0.5) == [AskGrant()]
    return machine


def reading(verify: bool = False, limits: PullLimits = LIMITS) -> TracedPull:
    machine = asking(verify, limits)
    assert machine.on_granted(TTL_S, (1, 2) if verify else None, 0.6) == [PostRead()]
    return machine


def verifying() -> TracedPull:
    machine = reading(verify=True)
    assert machine.on_read_done(1.0, 1.0) == [CheckBlocks((1, 2))]
    return machine


def quarantined() -> TracedPull:
    machine = reading()
    machine.cancel(1.0)
    assert machine.quarantined
    return machine


def settling() -> TracedPull:
    machine = reading()
    machine.on_read_done(1.0, 1.0)
    assert machine.state is PullState.SETTLING
    return machine


def finished(transfer_s: float, kv_bytes: int = 200) -> Report:
    return Report(PullFinished(pull_id="p1", kv_bytes=kv_bytes, transfer_s=transfer_s))


def failure(commands: list[Command]) -> tuple[PullFailure, bool]:
    """Return why the pull failed and whether its blocks may be reused."""
    (report,) = [command for command in commands if isinstance(command, Report)]
    assert isinstance(report.event, PullFailed)
    return report.event.reason, report.event.blocks_reusable


def test_a_pull_that_goes_well_asks_reads_reports_and_acknowledges() -> None:
    machine = reading()

    assert machine.on_read_done(0.8, 0.9) == [finished(0.9), ACKNOWLEDGE]
    assert machine.on_settled() == []
    assert machine.state is PullState.ENDED


def test_a_verified_pull_reports_only_after_the_checksums_agree() -> None:
    machine = verifying()

    assert machine.on_verified(1.5) == [finished(1.5), ACKNOWLEDGE]


def test_a_checksum_that_differs_fails_the_pull_and_cancels() -> None:
    machine = verifying()
    commands = machine.on_corrupt("block 1", 1.5)

    assert failure(commands) == (PullFailure.CHECKSUM, True)
    assert commands[1:] == [CANCEL]


def test_missing_checksums_fail_a_pull_that_verifies() -> None:
    machine = asking(verify=True)
    machine.on_granted(TTL_S, None, 0.6)

    assert failure(machine.on_read_done(1.0, 1.0)) == (PullFailure.CHECKSUM, True)


def test_a_pull_of_no_blocks_is_finished_at_once_and_only_acknowledges() -> None:
    machine = TracedPull(blocks=0)

    assert machine.start(0.0) == [finished(0.0, kv_bytes=0), ACKNOWLEDGE]
    assert machine.cancel(0.1) == []


def test_bytes_count_until_the_margin_before_the_lease_could_end() -> None:
    # Asked at 0.5, so the lease lasts at least until 30.5, and the margin is 1.
    assert reading().on_read_done(29.499, 29.6)[0] == finished(29.6)


def test_bytes_seen_later_are_not_trusted() -> None:
    commands = reading().on_read_done(29.5, 29.5)

    assert failure(commands) == (PullFailure.LEASE_TOO_LATE, True)
    assert commands[1:] == [CANCEL]


def test_a_grant_that_took_the_whole_lease_is_not_used() -> None:
    commands = asking().on_granted(TTL_S, None, 29.5)

    assert failure(commands) == (PullFailure.LEASE_TOO_LATE, True)
    assert commands[1:] == [CANCEL]


def test_a_long_read_renews_and_the_renewal_counts_from_when_it_was_asked_for() -> None:
    machine = reading(limits=PullLimits(timeout_s=100.0, margin_s=1.0, settle_for_s=TTL_S))
    asked_at = machine.next_tick()

    assert asked_at is not None
    assert 0.6 < asked_at < 29.5
    assert machine.on_tick(asked_at) == [AskRenewal()]
    assert machine.on_renewed(asked_at, TTL_S, asked_at + 5.0) == []
    assert machine.on_read_done(asked_at + 28.999, asked_at + 28.999)[0] == finished(asked_at + 28.999)


def test_a_renewal_that_was_not_acknowledged_does_not_count() -> None:
    machine = reading(limits=PullLimits(timeout_s=100.0, margin_s=1.0, settle_for_s=TTL_S))
    asked_at = machine.next_tick()
    assert asked_at is not None
    machine.on_tick(asked_at)

    assert failure(machine.on_read_done(29.5, 29.5)) == (PullFailure.LEASE_TOO_LATE, True)


@pytest.mark.parametrize(
    "act", [lambda m: m.cancel(1.0), lambda m: m.on_peer_lost(1.0), lambda m: m.on_tick(20.0)]
)
def test_blocks_of_a_pull_given_up_while_reading_stay_quarantined(
    act: Callable[[PullMachine], list[Command]],
) -> None:
    machine = reading()
    commands = act(machine)
    if commands == [AskRenewal()]:
        commands = act(machine)

    assert failure(commands)[1] is False
    assert machine.quarantined


def test_a_quarantine_lifts_when_the_read_is_terminal_and_its_bytes_are_never_used() -> None:
    assert quarantined().on_read_done(2.0, 2.0) == [LIFTED, CANCEL]
    assert quarantined().on_read_failed("gone", 2.0) == [LIFTED, CANCEL]


def test_a_quarantine_has_no_end_by_time() -> None:
    machine = quarantined()

    assert machine.next_tick() is None
    assert machine.on_tick(1e9) == []


def test_a_failed_read_leaves_reusable_blocks() -> None:
    assert failure(reading().on_read_failed("connection reset", 1.0)) == (PullFailure.PEER_LOST, True)


def test_a_pull_cancelled_while_asking_cancels_the_grant_it_may_have_got() -> None:
    commands = asking().cancel(1.0)

    assert failure(commands) == (PullFailure.CANCELLED, True)
    assert commands[1:] == [CANCEL]


def test_a_pull_cancelled_before_it_asked_has_nothing_to_settle() -> None:
    machine = connecting()

    assert failure(machine.cancel(0.1)) == (PullFailure.CANCELLED, True)
    assert machine.state is PullState.ENDED


@pytest.mark.parametrize("start", [connecting, asking])
def test_a_pull_that_gets_nowhere_times_out(start: Callable[[], TracedPull]) -> None:
    machine = start()

    assert machine.next_tick() == LIMITS.timeout_s
    assert machine.on_tick(19.999) == []
    assert failure(machine.on_tick(20.0)) == (PullFailure.TIMEOUT, True)


def test_an_unanswered_settlement_is_repeated_ever_more_slowly_until_the_lease_has_run_out() -> None:
    machine = settling()
    now, repeats = 1.0, 0
    while machine.state is PullState.SETTLING:
        machine.on_settle_lost(now)
        again = machine.next_tick()
        if machine.state is PullState.SETTLING:
            assert again is not None
            assert again - now >= SETTLE_RETRY_S * 2**repeats * 0.999
            assert machine.on_tick(again) == [ACKNOWLEDGE]
            now, repeats = again, repeats + 1

    assert repeats == 7
    assert machine.state is PullState.ENDED
    assert now < 1.0 + TTL_S


SCENARIOS: dict[str, Callable[[], TracedPull]] = {}


def scenario(build: Callable[[], TracedPull], *acts: Callable[[PullMachine], object]) -> None:
    """Remember a way to walk from a built state along further events."""

    def walk() -> TracedPull:
        machine = build()
        for act in acts:
            act(machine)
        return machine

    SCENARIOS[f"{len(SCENARIOS)}-{build.__name__}"] = walk


def nothing_to_read() -> TracedPull:
    machine = TracedPull(blocks=0)
    machine.start(0.0)
    return machine


scenario(nothing_to_read, lambda m: m.on_settled())
scenario(connecting, lambda m: m.on_unreachable(PullFailure.UNREACHABLE, "refused"))
scenario(connecting, lambda m: m.cancel(1.0))
scenario(connecting, lambda m: m.on_tick(20.0))
scenario(asking, lambda m: m.on_granted(TTL_S, None, 29.5))
scenario(asking, lambda m: m.on_denied(PullFailure.LEASE_UNKNOWN, "unknown"))
scenario(asking, lambda m: m.on_peer_lost(1.0))
scenario(asking, lambda m: m.cancel(1.0), lambda m: m.on_granted(TTL_S, None, 1.1))
scenario(asking, lambda m: m.on_tick(20.0), lambda m: m.on_denied(PullFailure.LEASE_UNKNOWN, "late"))
scenario(reading, lambda m: m.on_renewed(1.0, TTL_S, 1.1), lambda m: m.on_read_failed("x", 2.0))
scenario(reading, lambda m: m.on_read_done(29.5, 29.5), lambda m: m.on_renewed(1.0, TTL_S, 29.6))
scenario(reading, lambda m: m.on_tick(19.0), lambda m: m.on_tick(20.0), lambda m: m.cancel(21.0))
scenario(reading, lambda m: m.on_peer_lost(1.0), lambda m: m.on_peer_lost(1.0))
scenario(quarantined, lambda m: m.on_renewed(0.9, TTL_S, 1.1), lambda m: m.on_read_done(2.0, 2.0))
scenario(quarantined, lambda m: m.on_read_failed("gone", 2.0), lambda m: m.on_peer_lost(2.0))
scenario(verifying, lambda m: m.on_renewed(0.9, TTL_S, 1.1), lambda m: m.on_verified(2.0))
scenario(verifying, lambda m: m.on_peer_lost(1.0), lambda m: m.on_corrupt("x", 2.0))
scenario(verifying, lambda m: m.cancel(1.0), lambda m: m.on_verified(2.0))
scenario(verifying, lambda m: m.cancel(1.0), lambda m: m.on_corrupt("x", 2.0))
scenario(settling, lambda m: m.on_settle_lost(1.0), lambda m: m.cancel(1.0), lambda m: m.on_settled())
scenario(settling, lambda m: m.on_settle_lost(31.0), lambda m: m.on_settled())


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_pull_reports_its_outcome_once_and_every_edge_is_in_the_table(name: str) -> None:
    for before, event, after in SCENARIOS[name]().edges:
        assert TRANSITIONS[before][event] is after


def test_the_scenarios_walk_every_edge() -> None:
    walked = {edge for walk in SCENARIOS.values() for edge in walk().edges}
    table = {(state, event, to) for state, edges in TRANSITIONS.items() for event, to in edges.items()}

    assert walked == table


def test_no_event_is_both_an_edge_and_late() -> None:
    assert not any(TRANSITIONS[state].keys() & LATE[state] for state in PullState)


def test_an_impossible_event_is_a_defect_that_names_state_and_event() -> None:
    with pytest.raises(AssertionError, match=r"pull p1: PullEvent\.READ_FAILED in PullState\.ASKING"):
        asking().on_read_failed("x", 1.0)
