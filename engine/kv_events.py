"""Collects what a turn did to the prefix cache, and publishes it as one batch of KV events.

Consecutive blocks of one prompt become one event. Listens to the block pool, in the engine's thread.
"""

from typing import Protocol

from ..kvtransfer.digest import event_hash
from ..kvtransfer.events import MEDIUM_GPU, BlockRemoved, KvEvent, blocks_stored
from .block_pool import FullBlock


class Publisher(Protocol):
    """Where batches go; `kvtransfer.event_publisher` has the real one."""

    def publish(self, events: list[KvEvent]) -> None:
        """Send what one turn did to the cache, without waiting."""


class KvEventLog:
    """Implements `BlockListener`."""

    def __init__(self, publisher: Publisher, block_tokens: int) -> None:
        self._publisher = publisher
        self._block_tokens = block_tokens
        self._events: list[KvEvent] = []
        self._run: list[FullBlock] = []
        """Consecutive blocks that are not an event yet."""

    def block_stored(self, block: FullBlock) -> None:
        """Note a block that can be reused from now on."""
        if not self._run or block.parent != self._run[-1].digest:
            self._end_run()
        self._run.append(block)

    def block_removed(self, digest: bytes) -> None:
        """Note an evicted block."""
        self._end_run()
        self._events.append(BlockRemoved(block_hashes=[event_hash(digest)], medium=MEDIUM_GPU))

    def flush(self) -> None:
        """Publish what was noted; nothing if nothing was."""
        self._end_run()
        if self._events:
            self._publisher.publish(self._events)
            self._events = []

    def _end_run(self) -> None:
        if not self._run:
            return
        parent = self._run[0].parent
        self._events.append(
            blocks_stored(
                block_hashes=[event_hash(block.digest) for block in self._run],
                parent_block_hash=None if parent is None else event_hash(parent),
                token_ids=[token_id for block in self._run for token_id in block.token_ids],
                block_size=self._block_tokens,
                cache_salt=self._run[0].salt,
            )
        )
        self._run = []
