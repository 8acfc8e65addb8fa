"""A handshake concerns the workers it was begun for."""

import asyncio
import logging

import pytest

from baton.proxy.config import Probing
from baton.proxy.control import ControlError, WorkerControl
from baton.proxy.prober import Prober
from baton.proxy.routing.fleet import Fleet, KvAddress, Role, Sighting, Worker


class SlowHands(WorkerControl):
    """A worker that answers probes at once and handshakes when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answers: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def look(self) -> Sighting:
        return Sighting(ready=True, incarnation="i", models=frozenset({"m"}), kv=KvAddress(host="h", port=1))

    async def shake_hands(self, kv: KvAddress) -> None:
        self.asked.set()
        await self.answers


@pytest.mark.parametrize("answer", [None, ControlError("no")])
async def test_a_worker_removed_during_its_handshake_leaves_nothing_behind(
    answer: ControlError | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    workers = Worker("p", Role.PREFILL), Worker("d", Role.DECODE)
    fleet = Fleet(workers)
    hands = {worker.name: SlowHands() for worker in workers}
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        prober = Prober(fleet, dict(hands), Probing(), tasks)
        for worker in workers:
            prober.watch(worker)
        await hands["d"].asked.wait()

        prober.unwatch(workers[0])
        fleet.remove(workers[0], 0.0)
        if answer is None:
            hands["d"].answers.set_result(None)
        else:
            hands["d"].answers.set_exception(answer)
        prober.changed.clear()
        await prober.changed.wait()
        prober.stop()

    assert fleet.handshakes == 0
    assert caplog.messages == []
