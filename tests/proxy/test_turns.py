"""Other work of the loop is done between pieces of one that is long."""

import asyncio

from baton.proxy.turns import Turns


async def test_each_piece_is_done_in_a_turn_of_its_own_in_order() -> None:
    loop, done, all_done = asyncio.get_running_loop(), list[str](), asyncio.Event()
    turns = Turns(loop)

    def other() -> None:
        done.append("other")
        if len(done) < 7:
            loop.call_soon(other)
        else:
            all_done.set()

    loop.call_soon(other)
    for piece in "abc":
        turns.add(lambda piece=piece: done.append(piece))
    await all_done.wait()

    assert done == ["other", "a", "other", "b", "other", "c", "other"]


async def test_a_piece_that_fails_keeps_no_other_from_being_done() -> None:
    loop, failures, done = asyncio.get_running_loop(), list[str](), asyncio.Event()
    loop.set_exception_handler(lambda _, context: failures.append(repr(context["exception"])))
    turns = Turns(loop)

    def fails() -> None:
        raise ValueError("no")

    turns.add(fails)
    turns.add(done.set)
    await done.wait()

    assert failures == ["ValueError('no')"]
