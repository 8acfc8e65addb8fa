"""Small mixture-of-experts layers with their answer, computed by a loop over tokens and experts."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import silu

from baton.kernels.moe.experts import ExpertWeights


@dataclass(frozen=True)
class Layer:
    """One layer's experts and shapes."""

    experts: int = 8
    hidden: int = 10
    width: int = 7
    top_k: int = 3
    dtype: torch.dtype = torch.float32

    def weights(self, owned: range | None = None) -> ExpertWeights:
        owned = owned or range(self.experts)
        generator = torch.Generator().manual_seed(1)
        gate_up = torch.randn(self.experts, 2 * self.width, self.hidden, generator=generator)
        down = torch.randn(self.experts, self.hidden, self.width, generator=generator)
        scaled = (gate_up / self.hidden**0.5, down / self.width**0.5)
        gate_up, down = (part.to(self.dtype)[owned.start : owned.stop] for part in scaled)
        as_loaded = (part.transpose(1, 2).contiguous().transpose(1, 2) for part in (gate_up, down))
        return ExpertWeights.of(owned, *as_loaded)

    def routing(self, tokens: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Activations, ids and weights; every fifth id is -1."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(tokens, self.hidden, generator=generator).to(self.dtype)
        picks = [torch.randperm(self.experts, generator=generator)[: self.top_k] for _ in range(tokens)]
        ids = torch.stack(picks) if picks else torch.empty(0, self.top_k, dtype=torch.int64)
        ids.view(-1)[::5] = -1
        return x, ids, torch.rand(tokens, self.top_k, generator=generator)

    def answer(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        full, out = self.weights(), torch.zeros(x.shape)
        for token in range(x.shape[0]):
            for expert, weight in zip(ids[token].tolist(), weights[token].tolist(), strict=True):
                if expert >= 0:
                    gate, up = (full.gate_up[expert].float() @ x[token].float()).chunk(2)
                    out[token] += weight * (full.down[expert].float() @ (silu(gate) * up))
        return out.to(x.dtype)


def owned_by(rank: int, ranks: int, experts: int) -> range:
    share = experts // ranks
    return range(rank * share, (rank + 1) * share)
