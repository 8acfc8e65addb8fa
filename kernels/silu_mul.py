"""The gated activation between the two projections of an MLP."""

from torch import Tensor
from torch.nn.functional import silu


def silu_mul(gate_up: Tensor) -> Tensor:
    """Return `silu(gate) * up`.

    gate_up  [tokens, 2 * width]   gate in the first half of the columns
    returns  [tokens, width]       gate_up.dtype
    """
    gate, up = gate_up.chunk(2, -1)
    return silu(gate).mul_(up)
