"""What becomes of a fleet follows from events and the time alone."""

import signal

import pytest

from baton.cli.child_events import Fatal, Listening, Loading, Ready
from baton.cli.fleet_messages import (
    Address,
    ChildKind,
    Command,
    Exited,
    Finish,
    Interrupted,
    Printed,
    ReadinessSeen,
    Said,
    Send,
    ShowFailure,
    ShowLine,
    ShowListening,
    ShowLoading,
    ShowNote,
    ShowReady,
    ShowServing,
    Spawn,
    Ticked,
    WatchReadiness,
)
from baton.cli.supervisor import FleetState, Supervisor, describe_exit

P = Address("127.0.0.1", 1001)
D = Address("127.0.0.1", 1002)
PROXY = Address("127.0.0.1", 8000)
TERM, KILL = signal.SIGTERM, signal.SIGKILL


def fleet() -> Supervisor:
    workers = {"prefill-0": ChildKind.PREFILL, "decode-0": ChildKind.DECODE}
    return Supervisor(workers, drain_s=35.0)


def listening(name: str, address: Address) -> Said:
    return Said(name=name, event=Listening(host=address.host, port=address.port))


def serving() -> Supervisor:
    supervisor = fleet()
    supervisor.start(now=0.0)
    for name, address in [("prefill-0", P), ("decode-0", D), ("proxy", PROXY)]:
        supervisor.handle(listening(name, address), now=1.0)
    supervisor.handle(ReadinessSeen(ready=True), now=2.0)
    return supervisor


def essence(commands: list[Command]) -> list[Command]:
    """The commands without notes, whose wording is nobody's contract."""
    return [command for command in commands if not isinstance(command, ShowNote)]


def test_workers_start_first_on_free_ports() -> None:
    assert fleet().start(now=0.0) == [Spawn(name="prefill-0"), Spawn(name="decode-0")]


def test_the_proxy_starts_once_every_worker_has_an_address() -> None:
    supervisor = fleet()
    supervisor.start(now=0.0)

    assert supervisor.handle(listening("decode-0", D), now=1.0) == [ShowListening(name="decode-0", address=D)]
    assert supervisor.handle(listening("prefill-0", P), now=1.0) == [
        ShowListening(name="prefill-0", address=P),
        Spawn(name="proxy", workers={"prefill-0": P, "decode-0": D}),
    ]


def test_the_fleet_serves_once_the_proxy_says_so() -> None:
    supervisor = fleet()
    supervisor.start(now=0.0)
    supervisor.handle(listening("decode-0", D), now=1.0)
    supervisor.handle(listening("prefill-0", P), now=1.0)

    assert supervisor.handle(listening("proxy", PROXY), now=1.5) == [
        ShowListening(name="proxy", address=PROXY),
        WatchReadiness(address=PROXY),
    ]
    assert supervisor.handle(ReadinessSeen(ready=True), now=2.0) == [ShowServing(address=PROXY)]
    assert supervisor.state is FleetState.SERVING


def test_what_the_proxy_waits_for_is_said_once_it_takes_long() -> None:
    supervisor = fleet()
    waiting = ReadinessSeen(ready=False, reason="decode-0 loading")

    assert supervisor.handle(waiting, now=4.9) == []
    assert supervisor.handle(waiting, now=5.0) == [ShowNote(text="not ready yet: decode-0 loading")]
    assert supervisor.handle(waiting, now=5.1) == []


def test_progress_readiness_and_log_lines_are_shown() -> None:
    supervisor = fleet()
    progress = Loading(stage="weights", done=1, total=2)

    assert supervisor.handle(Said(name="decode-0", event=progress), now=0.0) == [
        ShowLoading(name="decode-0", progress=progress)
    ]
    assert supervisor.handle(Said(name="decode-0", event=Ready()), now=0.0) == [ShowReady(name="decode-0")]
    assert supervisor.handle(Printed(name="decode-0", line="hello"), now=0.0) == [
        ShowLine(name="decode-0", line="hello")
    ]


def test_a_child_that_dies_at_start_ends_the_fleet_and_is_named_with_its_last_lines() -> None:
    supervisor = fleet()
    supervisor.start(now=0.0)
    for number in range(20):
        supervisor.handle(Printed(name="decode-0", line=f"line {number}"), now=0.0)
    supervisor.handle(Said(name="decode-0", event=Fatal(message="no such model")), now=0.0)

    failure, stop = supervisor.handle(Exited(name="decode-0", status=1), now=1.0)

    assert isinstance(failure, ShowFailure)
    assert (failure.name, failure.reason) == ("decode-0", "no such model")
    assert failure.last_lines[-1] == "line 19"
    assert stop == Send(name="prefill-0", signal=TERM)
    assert supervisor.handle(Exited(name="prefill-0", status=0), now=1.1) == [Finish(status=1)]


def test_a_failing_fleet_does_not_wait_long_for_the_others() -> None:
    supervisor = fleet()
    supervisor.start(now=0.0)
    supervisor.handle(Exited(name="decode-0", status=1), now=1.0)

    assert supervisor.wake_at == 6.0
    assert essence(supervisor.handle(Ticked(), now=6.0)) == [Send(name="prefill-0", signal=KILL)]


def test_a_child_that_dies_later_is_started_again_on_its_address() -> None:
    supervisor = serving()

    (note,) = supervisor.handle(Exited(name="decode-0", status=-9), now=10.0)

    assert note == ShowNote(
        text="decode-0 ended (killed by SIGKILL); starting it again on port 1002 in 0.25 s"
    )
    assert supervisor.wake_at == 10.25
    assert supervisor.handle(Ticked(), now=10.2) == []
    assert supervisor.handle(Ticked(), now=10.25) == [Spawn(name="decode-0", address=D)]
    assert supervisor.wake_at is None


def test_the_proxy_too_is_started_again_with_its_workers() -> None:
    supervisor = serving()
    supervisor.handle(Exited(name="proxy", status=1), now=10.0)

    assert supervisor.handle(Ticked(), now=11.0) == [
        Spawn(name="proxy", address=PROXY, workers={"prefill-0": P, "decode-0": D})
    ]
    assert supervisor.handle(listening("proxy", PROXY), now=12.0) == [
        ShowListening(name="proxy", address=PROXY)
    ]


def test_the_pause_doubles_up_to_a_limit_and_starts_over_after_a_steady_life() -> None:
    supervisor = serving()
    now = 10.0
    pauses = []
    for _ in range(9):
        supervisor.handle(Exited(name="decode-0", status=1), now=now)
        assert supervisor.wake_at is not None
        pauses.append(supervisor.wake_at - now)
        now = supervisor.wake_at
        supervisor.handle(Ticked(), now=now)

    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]

    supervisor.handle(Exited(name="decode-0", status=1), now=now + 60.0)
    assert supervisor.wake_at == now + 60.25


def test_an_interrupt_stops_the_proxy_then_the_workers() -> None:
    supervisor = serving()

    assert essence(supervisor.handle(Interrupted(), now=10.0)) == [Send(name="proxy", signal=TERM)]
    assert supervisor.handle(Exited(name="proxy", status=0), now=11.0) == [
        Send(name="prefill-0", signal=TERM),
        Send(name="decode-0", signal=TERM),
    ]
    assert supervisor.handle(Exited(name="decode-0", status=0), now=12.0) == []
    assert supervisor.handle(Exited(name="prefill-0", status=0), now=12.0) == [Finish(status=0)]
    assert supervisor.state is FleetState.FINISHED


def test_an_interrupt_while_loading_stops_the_workers_at_once() -> None:
    supervisor = fleet()
    supervisor.start(now=0.0)

    assert essence(supervisor.handle(Interrupted(), now=1.0)) == [
        Send(name="prefill-0", signal=TERM),
        Send(name="decode-0", signal=TERM),
    ]


def test_a_second_interrupt_kills_what_is_left() -> None:
    supervisor = serving()
    supervisor.handle(Interrupted(), now=10.0)
    supervisor.handle(Exited(name="proxy", status=0), now=10.1)

    assert essence(supervisor.handle(Interrupted(), now=10.2)) == [
        Send(name="prefill-0", signal=KILL),
        Send(name="decode-0", signal=KILL),
    ]


def test_a_drain_has_a_deadline() -> None:
    supervisor = serving()
    supervisor.handle(Interrupted(), now=10.0)

    assert supervisor.wake_at == 45.0
    assert essence(supervisor.handle(Ticked(), now=45.0)) == [
        Send(name="prefill-0", signal=KILL),
        Send(name="decode-0", signal=KILL),
        Send(name="proxy", signal=KILL),
    ]


def test_a_child_in_its_pause_is_not_started_again_by_a_drain() -> None:
    supervisor = serving()
    supervisor.handle(Exited(name="decode-0", status=1), now=10.0)
    supervisor.handle(Interrupted(), now=10.1)

    assert supervisor.handle(Ticked(), now=20.0) == []


def test_a_fleet_with_nobody_left_finishes_at_once() -> None:
    supervisor = serving()
    for name in ("prefill-0", "decode-0", "proxy"):
        supervisor.handle(Exited(name=name, status=1), now=10.0)

    assert essence(supervisor.handle(Interrupted(), now=10.1)) == [Finish(status=0)]


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exit status 0"), (3, "exit status 3"), (-15, "killed by SIGTERM")]
)
def test_an_end_is_described(status: int, words: str) -> None:
    assert describe_exit(status) == words
