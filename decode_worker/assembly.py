"""What makes an engine a decode worker's: its scheduler, and decode batches padded to buckets."""

from ..engine.assembly import Half
from ..engine.config import WorkerConfig
from ..engine.intake import Limits
from ..engine.kv_cache import KvCache
from .buckets import Buckets, check_bucket_sizes, default_bucket_sizes
from .scheduler import DecodeScheduler


def decode_half(config: WorkerConfig, limits: Limits, cache: KvCache) -> Half:
    """Return the decode half. Raises `ValueError` for bucket sizes that cannot hold every batch."""
    if config.bucket_sizes is None:
        sizes = default_bucket_sizes(config.max_decode_rows)
    else:
        sizes = check_bucket_sizes(config.bucket_sizes, config.max_decode_rows)
    return Half(DecodeScheduler(limits, cache), bucket_sizes=sizes, bucket_of=Buckets(sizes))
