"""The limits of a DeepSeek-R1 layer are those worked out by hand for an H200."""

import pytest

from baton.bench.gpu.limits import decode_limit, step_limit_us
from baton.bench.gpu.model import R1


@pytest.mark.parametrize(
    ("ranks", "batch", "context", "microseconds"),
    [(32, 32, 2048, 140.8), (64, 64, 4096, 159.4), (64, 128, 4096, 243.0), (64, 256, 4096, 451.6)],
)
def test_a_moe_layer(ranks: int, batch: int, context: int, microseconds: float) -> None:
    assert decode_limit(R1, ranks, batch, context).total == pytest.approx(microseconds, abs=0.2)


@pytest.mark.parametrize(("batch", "context", "tokens_per_s"), [(32, 1024, 5096), (128, 4096, 8371)])
def test_a_whole_step(batch: int, context: int, tokens_per_s: float) -> None:
    step_us = step_limit_us(R1, decode_limit(R1, 64, batch, context), batch)

    assert batch / step_us * 1e6 == pytest.approx(tokens_per_s, rel=0.005)
