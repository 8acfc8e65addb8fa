"""The buffers of a decode or prefill step in mid-run: full contexts, routed rows that have arrived."""

import torch
from torch import Tensor

from ...kernels.fp8 import quantise_groups
from .case import Inputs
from .layers import DecodeState, PrefillState
from .model import Model

ALIGNMENT = 128


def decode_state(make: Inputs, model: Model, ranks: int, batch: int, context: int) -> DecodeState:
    """Sequences of `context` tokens; each owned expert gets an equal share of all ranks' rows."""
    owned = model.experts // ranks
    blocks = -(-context // model.block_tokens)
    tables = (make.order(batch * blocks) + 1).int().view(batch, blocks)
    last = context - 1
    expected = model.top_k * batch // owned
    capacity = 2 * expected
    received, scales = _quantised(make, owned * capacity, model.hidden)
    return DecodeState(
        x=make.normal(batch, model.hidden, dtype=torch.bfloat16),
        residual=make.normal(batch, model.hidden, dtype=torch.bfloat16),
        pool=make.normal(
            batch * blocks + 1, 1, model.block_tokens, model.rank + model.rope, dtype=torch.bfloat16
        ),
        tables=tables,
        lengths=torch.full((batch,), context, dtype=torch.int32, device=make.device),
        rows=tables[:, last // model.block_tokens].long() * model.block_tokens + last % model.block_tokens,
        turns=_turns(make, torch.full((batch,), last), model),
        received=received.view(owned, capacity, -1),
        received_scales=scales.view(owned, capacity, -1),
        counts=torch.full((owned,), expected, dtype=torch.int32, device=make.device),
        combined=make.normal(batch, model.hidden, dtype=torch.bfloat16),
        expected=expected,
    )


def prefill_state(make: Inputs, model: Model, ranks: int, tokens: int, prompt: int) -> PrefillState:
    """Whole prompts; each owned expert gets an equal share of all ranks' rows, aligned as kernels want it."""
    assert tokens % prompt == 0, f"{tokens} tokens are no whole number of prompts of {prompt}"
    owned = model.experts // ranks
    tiles = -(-model.top_k * tokens // owned // ALIGNMENT)
    received, scales = _quantised(make, owned * tiles * ALIGNMENT, model.hidden)
    experts = torch.arange(owned, dtype=torch.int32, device=make.device).repeat_interleave(tiles)
    return PrefillState(
        x=make.normal(tokens, model.hidden, dtype=torch.bfloat16),
        residual=make.normal(tokens, model.hidden, dtype=torch.bfloat16),
        prompt=prompt,
        turns=_turns(make, torch.arange(prompt).repeat(tokens // prompt), model),
        received=received,
        received_scales=scales,
        tile_experts=experts,
        combined=make.normal(tokens, model.hidden, dtype=torch.bfloat16),
        pool=make.normal(1, 1, model.block_tokens, model.rank + model.rope, dtype=torch.bfloat16),
        no_rows=torch.zeros(0, dtype=torch.int64, device=make.device),
    )


def _quantised(make: Inputs, rows: int, width: int) -> tuple[Tensor, Tensor]:
    return quantise_groups(make.normal(rows, width, dtype=torch.bfloat16))


def _turns(make: Inputs, positions: Tensor, model: Model) -> Tensor:
    pairs = torch.arange(0, model.rope, 2) / model.rope
    angles = torch.outer(positions.float(), 10_000.0**-pairs)
    return torch.polar(torch.ones_like(angles), angles).to(make.device)
