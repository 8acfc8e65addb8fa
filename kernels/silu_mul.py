"""The gated activation between the two projections of an MLP, plain or with its result quantised.

The masked forms take rows in the batched layout of the experts, of which each expert has its own number: rows
from `counts[e]` on are neither read nor written, and hold anything.
"""

from torch import Tensor
from torch.nn.functional import silu

from .by_device import by_device, reference
from .fp8 import quantise_groups


@by_device
def silu_mul(gate_up: Tensor) -> Tensor:
    """Return `silu(gate) * up`.

    gate_up  [tokens, 2 * width]   gate in the first half of the columns
    returns  [tokens, width]       gate_up.dtype
    """
    gate, up = gate_up.chunk(2, -1)
    return silu(gate).mul_(up)


@by_device
def silu_mul_masked(gate_up: Tensor, counts: Tensor) -> Tensor:
    """Return `silu(gate) * up` of each expert's first rows.

    gate_up  [experts, capacity, 2 * width]
    counts   [experts]                        int32, at most `capacity`
    returns  [experts, capacity, width]       gate_up.dtype
    """
    gate, up = gate_up.chunk(2, -1)
    return silu(gate).mul_(up)


@by_device
def silu_mul_quantise(gate_up: Tensor) -> tuple[Tensor, Tensor]:
    """Return `silu(gate) * up` as `quantise_groups` has it, rounded once.

    gate_up  [tokens, 2 * width]
    returns  [tokens, width] float8_e4m3fn, [tokens, ceil(width / 128)] float32
    """
    gate, up = gate_up.float().chunk(2, -1)
    return reference(quantise_groups)(silu(gate).mul_(up))


@by_device
def silu_mul_quantise_masked(gate_up: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return each expert's first rows as `silu_mul_quantise` has them.

    gate_up  [experts, capacity, 2 * width]
    counts   [experts]   int32, at most `capacity`
    returns  [experts, capacity, width] float8_e4m3fn, [experts, capacity, ceil(width / 128)] float32
    """
    values, scales = reference(silu_mul_quantise)(gate_up.flatten(0, 1))
    return values.view(*gate_up.shape[:2], -1), scales.view(*gate_up.shape[:2], -1)
