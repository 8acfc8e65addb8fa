"""`kv_transfer_params`: the object that rides in OpenAI requests and responses between proxy and workers.

vLLM's field names and meaning (NixlConnector, pull), so that either half can be replaced. A proxy forwards
every field of a prefill worker's answer to the decode worker unchanged. Fields that start with `baton_` are
extensions of ours, which other engines ignore. Unknown fields are ignored here likewise.
"""

import msgspec


class PrefillReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the prefill leg of a request did, for the decode worker's usage report."""

    worker: str
    """Name of the prefill worker, `host:port` of its HTTP address unless it was given another."""
    queue_s: float
    """Seconds from the arrival of the request to the start of its first chunk."""
    prefill_s: float
    """Seconds from the start of the first chunk to the sampled token."""


class KvTransferParams(msgspec.Struct, frozen=True, kw_only=True):
    """One hand-over of KV blocks, as a request asks for it or a prefill worker's answer offers it."""

    do_remote_decode: bool = False
    """Request to a prefill worker: keep the blocks for a decode worker elsewhere."""
    do_remote_prefill: bool = False
    """Request to a decode worker: the blocks lie with the prefill worker named below."""
    remote_engine_id: str | None = None
    """Incarnation id of the prefill worker's process; a stale one is refused."""
    remote_request_id: str | None = None
    """Key of the lease under which the blocks are held."""
    remote_block_ids: list[list[int]] | None = None
    """Block ids in the prefill worker's pool, one list per KV group (Baton has one group)."""
    remote_host: str | None = None
    remote_port: int | None = None
    """Address of the prefill worker's KV control channel."""
    tp_size: int = 1
    dcp_size: int = 1
    pp_size: int = 1
    remote_num_tokens: int | None = None
    """Prompt tokens whose KV the blocks hold."""
    remote_blocks_expiry_time: float | None = None
    """Always null from Baton: leases are durations, learned with the grant."""
    transfer_mode: str = "pull"
    remote_prefill_cached_tokens: int | None = None
    baton_token_digest: str | None = None
    """`token_digest` of the prompt's token ids; a decode worker whose tokens differ recomputes."""
    baton_prefill: PrefillReport | None = None


def single_group_block_ids(params: KvTransferParams) -> list[int]:
    """Return the block ids of the one KV group. Raises `ValueError` when there is not exactly one."""
    groups = params.remote_block_ids
    if groups is None or len(groups) != 1:
        count = "no" if groups is None else len(groups)
        raise ValueError(f"kv_transfer_params.remote_block_ids: expected one KV group, got {count}")
    return groups[0]
