"""Block-FP8 weights are multiplied by their block's factor, partial blocks at the edges included."""

import torch

from baton.engine.checkpoint.fp8 import dequantise, scale_shape


def test_every_value_is_multiplied_by_its_blocks_factor() -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)).to(torch.float8_e4m3fn)
    scale = torch.arange(1.0, 7.0).view(2, 3)
    expected = torch.tensor(
        [
            [float(weight[row, column]) * float(scale[row // 4, column // 3]) for column in range(7)]
            for row in range(5)
        ]
    )

    assert scale_shape((5, 7), (4, 3)) == (2, 3)
    assert torch.equal(dequantise(weight, scale, (4, 3), torch.float32), expected)


def test_the_result_has_the_dtype_asked_for() -> None:
    weight = torch.ones(2, 2).to(torch.float8_e4m3fn)

    assert dequantise(weight, torch.ones(1, 1), (128, 128), torch.bfloat16).dtype is torch.bfloat16
