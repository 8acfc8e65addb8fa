"""Flags of the fleets that whole-fleet tests start, questions to them, and a wait for their load."""

import asyncio

import aiohttp

from baton.bench.stream import Answer, stream

CHECKSUMS = ("--set", "kv_transfer.verify=crc")
SMALL_POOL = ("--set", "kv_cache_bytes=33554432")


async def ask_all(url: str, prompts: list[list[int]], new_tokens: int) -> list[Answer]:
    """Ask for so many greedy tokens of all prompts at once."""
    wanted = {"max_tokens": new_tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(stream(session, f"{url}/v1/completions", {"prompt": prompt, **wanted}))
            for prompt in prompts
        ]
    return [task.result() for task in running]


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
