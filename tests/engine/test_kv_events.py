"""Subscribers can follow the prefix cache from the published events alone."""

from baton.engine.block_pool import FullBlock
from baton.engine.kv_events import KvEventLog
from baton.kvtransfer.digest import block_hashes, event_hash
from baton.kvtransfer.events import BlockRemoved, BlockStored, KvEvent
from support.fake_worker import FakeWorker


class Published:
    """Keeps batches."""

    def __init__(self) -> None:
        self.batches: list[list[KvEvent]] = []

    def publish(self, events: list[KvEvent]) -> None:
        self.batches.append(events)


def digest(name: str) -> bytes:
    return name.encode() * 16


def test_consecutive_blocks_become_one_event() -> None:
    published = Published()
    log = KvEventLog(published, block_tokens=2)
    log.block_stored(FullBlock(digest("a"), None, [1, 2]))
    log.block_stored(FullBlock(digest("b"), digest("a"), [3, 4]))
    log.block_stored(FullBlock(digest("c"), digest("x"), [5, 6], salt="s"))
    log.block_removed(digest("a"))
    log.flush()

    [[first, second, third]] = published.batches
    assert isinstance(first, BlockStored)
    assert isinstance(second, BlockStored)
    assert first.block_hashes == [event_hash(digest("a")), event_hash(digest("b"))]
    assert (first.parent_block_hash, first.token_ids, first.block_size) == (None, [1, 2, 3, 4], 2)
    assert (second.parent_block_hash, second.extra_keys) == (event_hash(digest("x")), [("s",)])
    assert third == BlockRemoved(block_hashes=[event_hash(digest("a"))], medium="GPU")


def test_a_turn_without_changes_publishes_nothing() -> None:
    published = Published()
    KvEventLog(published, block_tokens=2).flush()

    assert published.batches == []


def test_the_events_name_exactly_what_the_cache_holds() -> None:
    published = Published()
    log = KvEventLog(published, block_tokens=4)
    worker = FakeWorker(blocks=10, listener=log)
    for seed in range(6):
        worker.submit(f"r{seed}", [(seed + i) % 60 for i in range(13)], 6)
        worker.run()
    log.flush()

    known: set[object] = set()
    for event in [event for batch in published.batches for event in batch]:
        assert isinstance(event, BlockStored | BlockRemoved)
        if isinstance(event, BlockStored):
            assert known.isdisjoint(event.block_hashes)
            known.update(event.block_hashes)
        else:
            known.difference_update(event.block_hashes)
    assert len(known) == worker.pool.counts().cached
    newest = block_hashes([(5 + i) % 60 for i in range(13)], 4)
    assert known >= {event_hash(name) for name in newest}
