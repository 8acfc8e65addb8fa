"""One GPU's share of a decode or prefill step: a layer timed by part and whole, beside its limit."""

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...kernels.by_device import references
from ...kernels.linear import gated_mlp
from ...kernels.sampling import best_tokens
from .case import Inputs
from .error import relative_error
from .layers import decode_attention, decode_moe, prefill_attention, prefill_moe
from .limits import LayerLimit, communication_us, decode_limit, prefill_limit, step_limit_us
from .machine import Machine
from .model import Model
from .states import decode_state, prefill_state
from .weights import attention_weights, mlp_weights, moe_weights

LAYER_TOLERANCE = 3e-2
"""Relative error of a whole layer: FP8 values next to a rounding boundary differ, and that adds up."""


@dataclass(frozen=True, kw_only=True)
class DecodeResult:
    """One batch size and context."""

    batch: int
    context: int
    attention_us: float
    moe_us: float
    layer_us: float
    """A whole MoE layer in one graph"""
    limit: LayerLimit
    step_us: float
    """All layers and the output head, nothing sent"""
    step_limit_us: float
    communication_us: float
    """Published latencies of one layer, scaled to the batch"""
    moe_layers: int

    @property
    def share_of_limit(self) -> float:
        """1.0 is the limit."""
        return self.limit.total / self.layer_us

    @property
    def tokens_per_s(self) -> float:
        """With nothing sent."""
        return self.batch / self.step_us * 1e6

    @property
    def tokens_per_s_sent(self) -> float:
        """With every dispatch and combine waited for."""
        return self.batch / (self.step_us + self.moe_layers * self.communication_us) * 1e6

    @property
    def tokens_per_s_overlapped(self) -> float:
        """With communication hidden behind computation, or the other way round."""
        return self.batch / max(self.step_us, self.moe_layers * self.communication_us) * 1e6

    def record(self) -> dict[str, Any]:
        """For the results file."""
        return {**asdict(self), "tokens_per_s": self.tokens_per_s, "share_of_limit": self.share_of_limit}


@dataclass(frozen=True, kw_only=True)
class PrefillResult:
    """One prompt length."""

    tokens: int
    prompt: int
    attention_us: float
    moe_us: float
    limit: LayerLimit

    @property
    def layer_us(self) -> float:
        """A whole MoE layer."""
        return self.attention_us + self.moe_us

    def record(self) -> dict[str, Any]:
        """For the results file."""
        return {**asdict(self), "share_of_limit": self.limit.total / self.layer_us}


class DecodeSlice:
    """Weights of one MoE layer, one dense layer and the output head."""

    def __init__(self, machine: Machine, model: Model, ranks: int) -> None:
        self._machine = machine
        self._model = model
        self._ranks = ranks
        self._make = Inputs(machine.device, seed=2)
        self._attention = attention_weights(self._make, model)
        self._moe = moe_weights(self._make, model, model.experts // ranks)
        self._dense = mlp_weights(self._make, model.hidden, model.dense_width)
        self._head = self._make.normal(model.hidden, model.vocab, dtype=torch.bfloat16, scale=0.01)

    def error(self, batch: int, context: int) -> float:
        """Largest error of a whole layer in Triton against the same layer in torch."""
        results = []
        for form in (contextlib.nullcontext, references):
            state = decode_state(Inputs(self._machine.device, 5), self._model, self._ranks, batch, context)
            with form():
                attended = decode_attention(self._model, self._attention, state)
                added, outputs = decode_moe(self._model, self._moe, state, attended.clone())
            results.append([attended, added, outputs[:, : state.expected]])
        return max(map(relative_error, *results))

    def measure(self, batch: int, context: int) -> DecodeResult:
        """Time the parts of a step."""
        model = self._model
        state = decode_state(self._make, model, self._ranks, batch, context)

        def attention() -> torch.Tensor:
            return decode_attention(model, self._attention, state)

        attended = attention()

        def layer() -> object:
            return decode_moe(model, self._moe, state, attention())

        def head() -> object:
            return best_tokens(torch.mm(state.x, self._head).float())

        time = self._machine.graph_us
        attention_us, layer_us = time(attention), time(layer)
        dense_us = time(lambda: gated_mlp(state.x, *self._dense))
        limit = decode_limit(model, self._ranks, batch, context)
        return DecodeResult(
            batch=batch,
            context=context,
            attention_us=attention_us,
            moe_us=time(lambda: decode_moe(model, self._moe, state, attended)),
            layer_us=layer_us,
            limit=limit,
            step_us=model.moe_layers * layer_us + model.dense_layers * (attention_us + dense_us) + time(head),
            step_limit_us=step_limit_us(model, limit, batch),
            communication_us=communication_us(batch),
            moe_layers=model.moe_layers,
        )


class PrefillSlice:
    """Weights of one MoE layer."""

    def __init__(self, machine: Machine, model: Model, ranks: int) -> None:
        self._machine = machine
        self._model = model
        self._ranks = ranks
        self._make = Inputs(machine.device, seed=3)
        self._attention = attention_weights(self._make, model)
        self._moe = moe_weights(self._make, model, model.experts // ranks)

    def measure(self, tokens: int, prompt: int) -> PrefillResult:
        """Time attention and experts of a chunk."""
        model = self._model
        state = prefill_state(self._make, model, self._ranks, tokens, prompt)

        def attention() -> torch.Tensor:
            return prefill_attention(model, self._attention, state)

        attended = attention()
        return PrefillResult(
            tokens=tokens,
            prompt=prompt,
            attention_us=self._machine.graph_us(attention),
            moe_us=self._machine.graph_us(lambda: prefill_moe(model, self._moe, state, attended)),
            limit=prefill_limit(model, self._ranks, tokens, prompt),
        )
