"""The feed-forward halves of a layer: a gated MLP, and a mixture of experts with shared ones beside it."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...kernels.decode_stack import DenseWeights, MoeWeights
from ...kernels.gate import Gate
from ...kernels.linear import Weight, gated_mlp, multiply
from ...kernels.moe.backend import Begun, LocalMoe, MoeBackend
from ...kernels.moe.experts import ExpertWeights
from ...kernels.moe.replicas import ReplicaTable
from ..checkpoint.weights import Weights
from .config import ModelConfig, MoeConfig, Scoring
from .halves import Pass


@dataclass(frozen=True, slots=True)
class ExpertShare:
    """What a rank has of the routed experts, in every layer alike."""

    slots: int
    """Of all ranks together; slot `s` begins with expert `s % num_experts`."""
    owned: range
    """Slots of this rank."""
    backend: MoeBackend
    """Reaches the others."""


class Mlp(Protocol):
    """The feed-forward half of a layer."""

    def __call__(self, x: Tensor, dead: Tensor | None = None) -> Tensor:
        """Compute [tokens, hidden] of the like; rows marked in `dead`, [tokens, 1], may hold anything."""
        ...

    @property
    def own_weights(self) -> DenseWeights | MoeWeights | None:
        """All that the MLP computes with; None where that is not all here or in a GPU's form."""
        ...


class DenseMlp:
    """`down(silu(gate(x)) * up(x))`."""

    def __init__(self, gate_up: Weight, down: Weight) -> None:
        """Take `[hidden, 2 * width]` and `[width, hidden]`."""
        self.own_weights = DenseWeights(gate_up, down)

    @classmethod
    def read(cls, weights: Weights, prefix: str, hidden: int, width: int) -> "DenseMlp":
        """Read one MLP."""
        pair = [(f"{prefix}.gate_proj.weight", width), (f"{prefix}.up_proj.weight", width)]
        down = [(f"{prefix}.down_proj.weight", hidden)]
        return cls(weights.linear(pair, hidden), weights.linear(down, width))

    def __call__(self, x: Tensor, dead: Tensor | None = None) -> Tensor:
        """Apply the MLP."""
        return gated_mlp(x, self.own_weights.gate_up, self.own_weights.down)


class MoeMlp:
    """Routed experts through a backend's three stages, plus shared experts where the model has them."""

    def __init__(
        self,
        router: Tensor,
        gate: Gate,
        experts: ExpertWeights,
        shared: DenseMlp | None,
        *,
        backend: MoeBackend,
        replicas: ReplicaTable | None = None,
    ) -> None:
        """Take the router's matrix `[hidden, experts]` in float32 and how its logits are routed.

        replicas  which slots hold the experts; absent: expert `e` is in slot `e`
        """
        self._router = router
        self._gate = gate
        self.experts = experts
        self.replicas = replicas
        self._shared = shared
        self._backend = backend

    @classmethod
    def read(cls, weights: Weights, prefix: str, config: ModelConfig, share: ExpertShare) -> "MoeMlp":
        """Read one mixture of experts; of the routed experts only those of the owned slots."""
        moe, hidden = config.moe, config.hidden_size
        router = weights.tensor(f"{prefix}.gate.weight", (moe.num_experts, hidden), torch.float32)
        experts = read_experts(weights, prefix, config, share.owned)
        shared = None
        if moe.shared_intermediate_size:
            shared = DenseMlp.read(weights, f"{prefix}.shared_experts", hidden, moe.shared_intermediate_size)
        replicas = first_replicas(moe, share.slots, share.owned, router.device)
        gate = _gate(weights, prefix, moe)
        return cls(router.t().contiguous(), gate, experts, shared, backend=share.backend, replicas=replicas)

    @property
    def own_weights(self) -> MoeWeights | None:
        """What the MLP computes with, where all of it is here."""
        if self.replicas is not None or not isinstance(self._backend, LocalMoe):
            return None
        shared = None if self._shared is None else self._shared.own_weights
        return MoeWeights(self._router, self._gate, self.experts, shared)

    def take_experts(self, experts: ExpertWeights, replicas: ReplicaTable | None) -> None:
        """Own other experts from now on, where a backend reaches those of other ranks."""
        assert self.own_weights is None, "a stack of layers goes on with the experts that it was made of"
        self.experts, self.replicas = experts, replicas

    def __call__(self, x: Tensor, dead: Tensor | None = None) -> Tensor:
        """Apply routed and shared experts; dead rows go to no expert."""
        combining = self._begin(x, dead).compute()
        if self._shared is None:
            return combining()
        shared = self._shared(x)  # while the routed experts' sums are on their way back
        return combining().add_(shared)

    def steps(self, x: Tensor) -> Pass[Tensor]:
        """Do the same, and yield while rows are on their way to the experts and while sums come back."""
        begun = self._begin(x)
        shared = None if self._shared is None else self._shared(x)
        yield
        combining = begun.compute()
        yield
        return combining() if shared is None else combining().add_(shared)

    def _begin(self, x: Tensor, dead: Tensor | None = None) -> Begun:
        weights, ids = self._gate(multiply(x.float(), self._router))
        if dead is not None:
            ids = ids.masked_fill_(dead, -1)
        if self.replicas is not None:
            ids = self.replicas.slots_of(ids)
        return self._backend.begin(x, ids, weights, self.experts)


def read_experts(weights: Weights, prefix: str, config: ModelConfig, owned: range) -> ExpertWeights:
    """Read the routed experts that begin in the slots `owned`."""
    moe, hidden = config.moe, config.hidden_size
    own = [slot % moe.num_experts for slot in owned]
    pair = [("gate_proj.weight", moe.intermediate_size), ("up_proj.weight", moe.intermediate_size)]
    down = [("down_proj.weight", hidden)]
    gate_up_fp8 = weights.expert_fp8(f"{prefix}.experts", own, pair, hidden)
    down_fp8 = weights.expert_fp8(f"{prefix}.experts", own, down, moe.intermediate_size)
    if gate_up_fp8 is not None and down_fp8 is not None:
        return ExpertWeights.of_fp8(owned, gate_up_fp8, down_fp8)
    return ExpertWeights.of(
        owned,
        weights.experts(f"{prefix}.experts", own, pair, hidden),
        weights.experts(f"{prefix}.experts", own, down, moe.intermediate_size),
        grouped=weights.published_experts,
    )


def first_replicas(moe: MoeConfig, slots: int, owned: range, device: torch.device) -> ReplicaTable | None:
    """Return the table of a new placement; none where every expert has one slot, its own number."""
    if slots == moe.num_experts:
        return None
    return ReplicaTable(moe.num_experts, slots, offset=owned.start, device=device)


def _gate(weights: Weights, prefix: str, moe: MoeConfig) -> Gate:
    bias = None
    if moe.scoring is Scoring.SIGMOID_GROUPED:
        bias = weights.tensor(f"{prefix}.gate.e_score_correction_bias", (moe.num_experts,), torch.float32)
    return Gate(
        bias,
        top_k=moe.top_k,
        num_groups=moe.num_groups,
        top_groups=moe.top_groups,
        normalise=moe.normalise,
        scale=moe.scale,
    )
