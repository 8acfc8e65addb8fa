"""Every deadline is met, whatever another member does when it is told of its own."""

import asyncio

from baton.proxy.watch import NEVER, Watch


class Member:
    def __init__(self, *, faulty: bool = False) -> None:
        self.due = 0.0
        self.faulty = faulty
        self.told = asyncio.Event()

    def overdue(self, now: float) -> None:
        self.due = NEVER
        self.told.set()
        if self.faulty:
            raise RuntimeError("a fault of its own")


async def test_a_member_that_fails_costs_no_other_its_deadline() -> None:
    loop = asyncio.get_running_loop()
    faults = []
    loop.set_exception_handler(lambda _, context: faults.append(str(context["exception"])))
    watch, members = Watch(loop, 0.001), [Member(faulty=number == 3) for number in range(8)]
    try:
        async with asyncio.timeout(30):
            for _ in range(3):
                for member in members:
                    member.due = 0.0
                    member.told.clear()
                    watch.add(member)
                for member in members:
                    await member.told.wait()
    finally:
        watch.close()
        loop.set_exception_handler(None)

    assert faults == ["a fault of its own"] * 3
