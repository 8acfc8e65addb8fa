"""Flags of the fleets that whole-fleet tests start, and a wait for their load."""

import asyncio

from baton.bench.stream import Answer

CHECKSUMS = ("--set", "kv_transfer.verify=crc")
SMALL_POOL = ("--set", "kv_cache_bytes=33554432")


class Milestones:
    """Counts the answers of a running load, so that a test can act in the midst of it."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self._news = asyncio.Event()

    def on_answer(self, answer: Answer) -> None:
        """Take one answer."""
        self.answers.append(answer)
        self._news.set()

    async def more(self, count: int) -> list[Answer]:
        """Wait for at least `count` further answers; return them."""
        start = len(self.answers)
        while len(self.answers) < start + count:
            self._news.clear()
            await self._news.wait()
        return self.answers[start:]
