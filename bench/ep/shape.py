"""The layer whose rows travel, and its routing."""

import msgspec
import torch
from torch import Tensor

SEED = 7


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What decides how many bytes travel."""

    hidden: int = 2048
    top_k: int = 8
    experts: int = 32
    dtype: str = "float32"

    @property
    def torch_dtype(self) -> torch.dtype:
        """Number format of the rows."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def tokens(self, count: int, rank: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return activations, expert ids and router weights of one rank's tokens."""
        generator = torch.Generator().manual_seed(SEED + rank)
        x = torch.randn(count, self.hidden, generator=generator).to(self.torch_dtype)
        ids = torch.rand(count, self.experts, generator=generator).topk(self.top_k).indices
        weights = torch.rand(count, self.top_k, generator=generator)
        return x.to(device), ids.to(device), weights.to(device)
