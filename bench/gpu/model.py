"""The shape of DeepSeek-R1, and a tiny model of the same make for dry runs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Model:
    """A DeepSeek-V3-shaped model and how many GPUs share its experts."""

    hidden: int
    heads: int
    query_rank: int
    rank: int
    nope: int
    rope: int
    value: int
    dense_width: int
    moe_width: int
    experts: int
    top_k: int
    groups: int
    top_groups: int
    vocab: int
    moe_layers: int
    dense_layers: int
    block_tokens: int

    @property
    def first_width(self) -> int:
        """Outputs of the first product: the compressed query and the cache entry."""
        return self.query_rank + self.rank + self.rope

    @property
    def first_parameters(self) -> int:
        """Of the compressions of queries and of keys and values, together."""
        return self.hidden * self.first_width

    @property
    def query_parameters(self) -> int:
        """Of the product that expands queries."""
        return self.query_rank * self.heads * (self.nope + self.rope)

    @property
    def expansion_parameters(self) -> int:
        """Of the product that expands keys and values, which decode absorbs."""
        return self.rank * self.heads * (self.nope + self.value)

    @property
    def out_parameters(self) -> int:
        """Of attention's output product."""
        return self.heads * self.value * self.hidden

    @property
    def expert_parameters(self) -> int:
        """Of one expert."""
        return 3 * self.hidden * self.moe_width


R1 = Model(
    hidden=7168,
    heads=128,
    query_rank=1536,
    rank=512,
    nope=128,
    rope=64,
    value=128,
    dense_width=18432,
    moe_width=2048,
    experts=256,
    top_k=8,
    groups=8,
    top_groups=4,
    vocab=129_280,
    moe_layers=58,
    dense_layers=3,
    block_tokens=64,
)
TINY = Model(
    hidden=256,
    heads=4,
    query_rank=128,
    rank=32,
    nope=16,
    rope=16,
    value=16,
    dense_width=256,
    moe_width=128,
    experts=16,
    top_k=2,
    groups=4,
    top_groups=2,
    vocab=500,
    moe_layers=2,
    dense_layers=1,
    block_tokens=16,
)
