"""Ranks join and leave a fleet that serves, and what goes wrong leaves it as it was."""

import signal

import pytest

from baton.cli.child_events import Fatal, Left, Listening, Ready, Stays
from baton.cli.fleet_messages import (
    AddRank,
    Address,
    Answer,
    ChildKind,
    Command,
    Exited,
    Interrupted,
    List,
    ReadinessSeen,
    RemoveRank,
    Said,
    Send,
    ShowListening,
    ShowNote,
    ShowReady,
    Spawn,
    Ticked,
    Unlist,
    Unlisted,
)
from baton.cli.rank_groups import RankPlace
from baton.cli.supervisor import Supervisor

PORT = 4100
NAMES = ("decode-0", "decode-1")
AT = {name: Address("127.0.0.1", 1000 + number) for number, name in enumerate((*NAMES, "decode-2", "proxy"))}


@pytest.fixture
def fleet() -> Supervisor:
    """Two decode ranks that serve."""
    supervisor = Supervisor(dict.fromkeys(NAMES, ChildKind.DECODE), drain_s=35.0, groups={PORT: NAMES})
    supervisor.start(now=0.0)
    for name in (*NAMES, "proxy"):
        supervisor.handle(listening(name), now=1.0)
    supervisor.handle(ReadinessSeen(ready=True), now=2.0)
    return supervisor


@pytest.fixture
def joining(fleet: Supervisor) -> Supervisor:
    """The same, and a third one on its way in."""
    fleet.handle(AddRank(call=7, beside="decode-0"), now=10.0)
    fleet.handle(listening("decode-2"), now=11.0)
    return fleet


@pytest.fixture
def leaving(fleet: Supervisor) -> Supervisor:
    """Two, of which the first was told to leave."""
    fleet.handle(RemoveRank(call=8, name="decode-0"), now=10.0)
    fleet.handle(Unlisted(name="decode-0"), now=11.0)
    return fleet


def listening(name: str) -> Said:
    return Said(name=name, event=Listening(host=AT[name].host, port=AT[name].port))


def essence(commands: list[Command]) -> list[Command]:
    """The commands without what is only shown."""
    return [each for each in commands if not isinstance(each, ShowNote | ShowReady | ShowListening)]


def answered(commands: list[Command]) -> list[tuple[int, bool]]:
    return [(each.call, each.is_done) for each in commands if isinstance(each, Answer)]


def die(fleet: Supervisor, *names: str, now: float) -> list[Command]:
    """Let workers be killed; return what is started again a second later."""
    for name in names:
        fleet.handle(Exited(name=name, status=-signal.SIGKILL), now)
    return fleet.handle(Ticked(), now + 1.0)


def test_a_newcomer_is_started_with_the_address_of_the_worker_it_joins(fleet: Supervisor) -> None:
    commands = fleet.handle(AddRank(call=7, beside="decode-1"), now=10.0)

    assert essence(commands) == [Spawn(name="decode-2", join=AT["decode-1"])]


def test_the_proxy_is_told_of_a_newcomer_once_it_is_ready(joining: Supervisor) -> None:
    listed, answer = essence(joining.handle(Said(name="decode-2", event=Ready()), now=12.0))

    assert listed == List(name="decode-2", address=AT["decode-2"])
    assert answered([answer]) == [(7, True)]


def test_a_newcomer_that_fails_is_not_started_again(joining: Supervisor) -> None:
    joining.handle(Said(name="decode-2", event=Fatal(message="it differs from the ranks")), now=12.0)
    [answer] = joining.handle(Exited(name="decode-2", status=1), now=12.0)

    assert isinstance(answer, Answer)
    assert not answer.is_done
    assert "it differs from the ranks" in answer.text
    assert joining.wake_at is None


def test_a_group_that_grew_starts_again_as_it_was_last(joining: Supervisor) -> None:
    joining.handle(Said(name="decode-2", event=Ready()), now=12.0)

    spawned = die(joining, "decode-1", "decode-0", "decode-2", now=100.0)

    places = {each.name: each.place for each in spawned if isinstance(each, Spawn)}
    names = ("decode-0", "decode-1", "decode-2")
    assert places == {name: RankPlace(rank=rank, size=3, port=PORT) for rank, name in enumerate(names)}


def test_a_newcomer_whose_group_died_meanwhile_is_not_counted_in(joining: Supervisor) -> None:
    die(joining, "decode-0", "decode-1", now=12.0)

    assert essence(joining.handle(Said(name="decode-2", event=Ready()), now=13.5)) == []
    assert answered(joining.handle(Exited(name="decode-2", status=1), now=14.0)) == [(7, False)]


def test_a_rank_leaves_once_the_proxy_has_forgotten_it(fleet: Supervisor) -> None:
    asked = fleet.handle(RemoveRank(call=8, name="decode-0"), now=10.0)
    forgotten = fleet.handle(Unlisted(name="decode-0"), now=40.0)

    assert essence(asked) == [Unlist(name="decode-0")]
    assert forgotten == [Send(name="decode-0", signal=signal.SIGUSR1)]


def test_a_rank_that_has_left_is_not_started_again(leaving: Supervisor) -> None:
    leaving.handle(Said(name="decode-0", event=Left()), now=12.0)

    assert answered(leaving.handle(Exited(name="decode-0", status=0), now=13.0)) == [(8, True)]
    assert leaving.wake_at is None
    [spawn] = die(leaving, "decode-1", now=100.0)
    assert isinstance(spawn, Spawn)
    assert spawn.place == RankPlace(rank=0, size=1, port=PORT)


def test_a_rank_that_left_unasked_is_not_started_again_and_the_proxy_is_told(fleet: Supervisor) -> None:
    fleet.handle(Said(name="decode-0", event=Left()), now=12.0)

    assert fleet.handle(Exited(name="decode-0", status=0), now=13.0) == [Unlist(name="decode-0")]
    assert fleet.wake_at is None


def test_a_rank_that_the_others_cannot_do_without_gets_requests_again(leaving: Supervisor) -> None:
    commands = leaving.handle(Said(name="decode-0", event=Stays(message="unreadable")), now=12.0)

    assert commands[0] == List(name="decode-0", address=AT["decode-0"])
    assert answered(commands) == [(8, False)]
    [spawn] = die(leaving, "decode-0", now=100.0)
    assert isinstance(spawn, Spawn)
    assert spawn.place is not None
    assert spawn.place.size == 2


def test_a_rank_stays_if_the_proxy_does_not_forget_it(fleet: Supervisor) -> None:
    fleet.handle(RemoveRank(call=8, name="decode-0"), now=10.0)

    commands = fleet.handle(Unlisted(name="decode-0", problem="the proxy answered 401"), now=11.0)

    assert answered(commands) == [(8, False)]
    assert essence(commands) == commands == [each for each in commands if isinstance(each, Answer)]


def test_a_rank_that_dies_while_it_leaves_is_gone_and_its_group_starts_without_it(
    leaving: Supervisor,
) -> None:
    spawned = die(leaving, "decode-0", "decode-1", now=12.0)

    assert [(each.name, each.place) for each in spawned if isinstance(each, Spawn)] == [
        ("decode-1", RankPlace(rank=0, size=1, port=PORT))
    ]


@pytest.mark.parametrize(
    "event",
    [
        AddRank(call=9, beside="decode-7"),
        AddRank(call=9, beside="proxy"),
        RemoveRank(call=9, name="decode-7"),
        RemoveRank(call=9, name="decode-1"),  # the other one is leaving
        AddRank(call=9, beside="decode-1"),
    ],
)
def test_what_cannot_be_is_refused_at_once(leaving: Supervisor, event: AddRank | RemoveRank) -> None:
    commands = leaving.handle(event, now=12.0)

    assert answered(commands) == [(9, False)]
    assert len(commands) == 1


def test_the_last_rank_cannot_leave(leaving: Supervisor) -> None:
    leaving.handle(Said(name="decode-0", event=Left()), now=12.0)
    leaving.handle(Exited(name="decode-0", status=0), now=13.0)

    assert answered(leaving.handle(RemoveRank(call=9, name="decode-1"), now=14.0)) == [(9, False)]


def test_a_worker_that_is_no_rank_cannot_be_joined() -> None:
    supervisor = Supervisor({"decode-0": ChildKind.DECODE}, drain_s=35.0)
    supervisor.start(now=0.0)
    for name in ("decode-0", "proxy"):
        supervisor.handle(listening(name), now=1.0)
    supervisor.handle(ReadinessSeen(ready=True), now=2.0)

    assert answered(supervisor.handle(AddRank(call=9, beside="decode-0"), now=3.0)) == [(9, False)]


def test_an_interrupt_does_not_stop_a_rank_that_is_leaving(leaving: Supervisor) -> None:
    leaving.handle(Interrupted(), now=12.0)

    stopped = leaving.handle(Exited(name="proxy", status=0), now=13.0)

    assert stopped == [Send(name="decode-1", signal=signal.SIGTERM)]
    assert leaving.handle(Said(name="decode-0", event=Stays(message="x")), now=14.0) == [
        Send(name="decode-0", signal=signal.SIGTERM)
    ]
