"""How much is remembered of prompts, and what the rates start from."""

from typing import Annotated

import msgspec

from .rate_config import RateConfig


class IndexConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How prompts are remembered."""

    chunk_bytes: Annotated[int, msgspec.Meta(ge=16)] = 1024
    """A prompt is known in steps of so many bytes."""
    max_bytes: Annotated[int, msgspec.Meta(ge=1 << 16)] = 256 * 1024 * 1024
    """Memory of the index; what was used least recently goes first."""
    max_age_s: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    """A prefix that was not used for so long is forgotten; after half of it at the earliest. Sessions too."""
    max_sessions: Annotated[int, msgspec.Meta(ge=1)] = 65_536
    """Of more, the least recently used are forgotten; each takes some 300 bytes."""


KV_BYTES_PER_TOKEN = 70_272.0
"""Of the model that is assumed while nothing else is said: 61 layers of 576 two-byte values."""


class MemorySettings(msgspec.Struct, frozen=True, kw_only=True):
    """All that a memory goes by: two with the same learn the same."""

    index: IndexConfig = IndexConfig()
    rates: RateConfig = RateConfig()
    kv_bytes_per_token: float = KV_BYTES_PER_TOKEN
