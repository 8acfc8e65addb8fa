"""The prefix cache of a mock worker: blocks of text instead of tokens, least recently used out first."""

from collections import OrderedDict
from typing import Any

BLOCK_CHARS = 64


class BlockCache:
    """The last `capacity` blocks of text, each known by all text before it; None: no bound."""

    def __init__(self, capacity: int | None) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()
        self.asked_chars = 0
        self.hit_chars = 0

    def take(self, text: str) -> int:
        """Remember `text`; return how many of its characters, from the first on, were remembered."""
        keys = chain(text)
        hits = next((number for number, key in enumerate(keys) if key not in self._blocks), len(keys))
        for key in keys:
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while self._capacity is not None and len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)
        self.asked_chars += len(text)
        self.hit_chars += hits * BLOCK_CHARS
        return hits * BLOCK_CHARS


def chain(text: str) -> list[int]:
    """Return a key per full block, each over the block and all before it."""
    keys, above = [], 0
    for at in range(0, len(text) - BLOCK_CHARS + 1, BLOCK_CHARS):
        above = hash((above, text[at : at + BLOCK_CHARS]))
        keys.append(above)
    return keys


def prompt_text(body: dict[str, Any]) -> str:
    """Return all text of the prompt, in order."""
    if "messages" in body:
        return "".join(f"<{each['role']}>{each['content']}" for each in body["messages"])
    return str(body.get("prompt", ""))
