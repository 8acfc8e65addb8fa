"""A handler gets every event in order, and the failure only after what came before it."""

import asyncio

import pytest

from baton.engine.api.errors import ApiError
from baton.engine.api.mailbox import Mailbox
from baton.engine.messages import SequenceOutput


def output(choice: int) -> SequenceOutput:
    return SequenceOutput(request_id="r", choice=choice, token_ids=[1])


async def test_events_that_came_together_are_taken_together() -> None:
    mailbox = Mailbox("x")
    mailbox.put(output(0))
    mailbox.put(output(1))

    assert await mailbox.take() == [output(0), output(1)]


async def test_a_waiting_handler_is_woken() -> None:
    mailbox = Mailbox("x")
    async with asyncio.TaskGroup() as tasks:
        taken = tasks.create_task(mailbox.take(), name="handler")
        await asyncio.sleep(0)
        mailbox.put(output(0))

    assert taken.result() == [output(0)]


async def test_a_failure_comes_after_the_events_before_it() -> None:
    mailbox = Mailbox("x")
    mailbox.put(output(0))
    mailbox.fail(ApiError(500, "first"))
    mailbox.fail(ApiError(500, "second"))

    assert await mailbox.take() == [output(0)]
    with pytest.raises(ApiError, match="first"):
        await mailbox.take()


async def test_a_handler_that_gives_up_waiting_misses_nothing() -> None:
    mailbox = Mailbox("x")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await mailbox.take()
    mailbox.put(output(0))

    assert await mailbox.take() == [output(0)]
