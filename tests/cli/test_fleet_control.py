"""What an operator asks of a running fleet is answered when it is done."""

import asyncio
import os
from pathlib import Path

import pytest

from baton.cli import fleet_control
from baton.cli.fleet_control import Action, FleetControl, FleetControlError, Request, ask_fleet, socket_path
from baton.cli.fleet_messages import AddRank, Answer, RemoveRank

PORT = 8123


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_control.tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize(
    ("action", "asked"),
    [
        (Action.ADD, AddRank(call=1, beside="decode-0")),
        (Action.REMOVE, RemoveRank(call=1, name="decode-0")),
    ],
)
async def test_a_question_reaches_the_fleet_and_its_answer_comes_back(
    action: Action, asked: AddRank | RemoveRank
) -> None:
    inbox: asyncio.Queue[AddRank | RemoveRank] = asyncio.Queue()
    control = FleetControl(inbox.put_nowait)

    async with control.serving(PORT), asyncio.TaskGroup() as tasks:
        request = Request(action=action, worker="decode-0")
        reply = tasks.create_task(asyncio.to_thread(ask_fleet, PORT, request))
        assert await inbox.get() == asked
        control.answer(Answer(call=1, text="done", is_done=True))

    assert (reply.result().text, reply.result().is_done) == ("done", True)


async def test_a_fleet_that_ends_leaves_nobody_waiting() -> None:
    inbox: asyncio.Queue[AddRank | RemoveRank] = asyncio.Queue()
    control = FleetControl(inbox.put_nowait)

    async with asyncio.TaskGroup() as tasks, control.serving(PORT):
        request = Request(action=Action.ADD, worker="decode-0")
        reply = tasks.create_task(asyncio.to_thread(_failure, request))
        await inbox.get()

    assert "ended" in reply.result()


def test_without_a_fleet_there_is_an_error() -> None:
    assert "no `baton up`" in _failure(Request(action=Action.ADD, worker="decode-0"))


def test_a_folder_that_others_can_enter_is_not_trusted() -> None:
    socket_path(PORT).parent.chmod(0o755)

    with pytest.raises(FleetControlError, match="only you"):
        socket_path(PORT)


def test_only_this_user_can_reach_the_socket() -> None:
    assert os.stat(socket_path(PORT).parent).st_mode & 0o077 == 0


def _failure(request: Request) -> str:
    with pytest.raises(FleetControlError) as caught:
        ask_fleet(PORT, request)
    return str(caught.value)
