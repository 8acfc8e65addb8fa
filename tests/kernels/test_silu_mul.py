"""The gated activation multiplies silu of the first half by the second."""

import torch

from baton.kernels.silu_mul import silu_mul


def test_the_gate_is_the_first_half() -> None:
    x = torch.randn(3, 10, generator=torch.Generator().manual_seed(1))
    gate, up = x[:, :5], x[:, 5:]

    torch.testing.assert_close(silu_mul(x), gate / (1 + (-gate).exp()) * up)
