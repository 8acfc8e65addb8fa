"""What makes an engine a prefill worker's: its scheduler, and decode batches of any size."""

from ..engine.assembly import Half
from ..engine.config import WorkerConfig
from ..engine.intake import Limits
from ..engine.kv_cache import KvCache
from ..kvtransfer.service import TransferService
from .scheduler import OfferedBy, PrefillScheduler


def prefill_half(config: WorkerConfig, limits: Limits, cache: KvCache, service: TransferService) -> Half:
    """Return the prefill half; the service has been started, its address is known."""
    host, port = service.address
    offered_by = OfferedBy(
        worker=config.name or f"{config.host}:{config.port}",
        incarnation=service.incarnation,
        host=host,
        port=port,
    )
    return Half(PrefillScheduler(limits, cache, offered_by), bucket_sizes=[], bucket_of=int)
