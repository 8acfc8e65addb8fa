"""What one KV block is made of. Two workers may exchange blocks only if their layouts are equal.

A block is one contiguous run of bytes over all layers, so one block is one transfer descriptor:

    MLA  [num_layers, block_tokens, values_per_token]         latent, then the roped shared key
    GQA  [num_layers, 2, kv_heads, block_tokens, head_dim]    head-major: a head range is one strided run

FP8 values have no factors beside them, so their layout differs from a wider one in its dtype alone.
"""

import enum

import msgspec

BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1}


class KvFormat(enum.Enum):
    """How keys and values are stored."""

    MLA = "mla"
    GQA = "gqa"


class KvLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Everything two workers must agree on before bytes of one may be read as KV by the other."""

    format: KvFormat
    dtype: str
    """A key of `BYTES_PER_VALUE`."""
    num_layers: int
    """Of the model, then of its draft."""
    draft_layers: int = 0
    """Layers of multi-token prediction, which both workers keep or neither."""
    kv_heads: int
    """1 for MLA, whose latent is shared by all heads."""
    values_per_token: int
    """Values a token, a layer and a KV head: MLA kv_lora_rank + qk_rope_head_dim; GQA 2 * head_dim."""
    block_tokens: int
    model_digest: str
    """Digest of what else determines the bytes: weights' identity, rope settings, architecture."""

    @property
    def block_bytes(self) -> int:
        """Bytes of one block over all layers."""
        values = self.num_layers * self.kv_heads * self.values_per_token * self.block_tokens
        return values * BYTES_PER_VALUE[self.dtype]


def layout_differences(ours: KvLayout, theirs: KvLayout) -> list[str]:
    """Return one line for each field that differs, naming it and both values; empty when compatible."""
    return [
        f"{field}: {getattr(ours, field)!r} here, {getattr(theirs, field)!r} there"
        for field in KvLayout.__struct_fields__
        if getattr(ours, field) != getattr(theirs, field)
    ]
