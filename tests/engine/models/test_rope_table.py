"""Rotations by position equal transformers' frequencies, with and without YaRN."""

import math

import pytest
import torch
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding

from baton.engine.models.config import RopeConfig, YarnConfig
from baton.engine.models.rope_table import rope_table, softmax_scale

V3 = YarnConfig(factor=40.0, original_max_position_embeddings=4096, mscale=1.0, mscale_all_dim=1.0)


def transformers_angles(
    settings: dict[str, object], dim: int, positions: int
) -> tuple[torch.Tensor, torch.Tensor]:
    config = DeepseekV3Config(qk_rope_head_dim=dim, max_position_embeddings=163840, rope_parameters=settings)
    cosines, sines = DeepseekV3RotaryEmbedding(config)(torch.zeros(1), torch.arange(positions).unsqueeze(0))
    return cosines[0, :, : dim // 2], sines[0, :, : dim // 2]


@pytest.mark.parametrize(
    "yarn",
    [
        None,
        V3,
        YarnConfig(factor=32.0, original_max_position_embeddings=4096, beta_fast=1.0, beta_slow=1.0),
        YarnConfig(factor=8.0, original_max_position_embeddings=64, mscale=0.707, mscale_all_dim=1.0),
        YarnConfig(factor=4.0, original_max_position_embeddings=32, truncate=False, attention_factor=1.5),
    ],
    ids=["plain", "DeepSeek-V3", "equal betas", "mscales that differ", "no truncation"],
)
def test_cosines_and_sines_equal_transformers(yarn: YarnConfig | None) -> None:
    settings: dict[str, object] = {"rope_type": "default", "rope_theta": 10000.0}
    if yarn is not None:
        fields = {field: getattr(yarn, field) for field in yarn.__struct_fields__}
        settings |= {
            "rope_type": "yarn",
            **{key: value for key, value in fields.items() if value is not None},
        }
    cosines, sines = transformers_angles(settings, 64, 200)

    table = rope_table(RopeConfig(theta=10000.0, dim=64, yarn=yarn), 200, torch.device("cpu"))

    torch.testing.assert_close(table.real, cosines, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(table.imag, sines, rtol=1e-4, atol=1e-5)


def test_the_softmax_scale_of_deepseek_v3() -> None:
    assert softmax_scale(192, RopeConfig(theta=1e4, dim=64, yarn=V3)) == pytest.approx(0.1352, abs=1e-4)


def test_without_mscale_over_all_dimensions_the_scale_is_plain() -> None:
    yarn = YarnConfig(factor=40.0, original_max_position_embeddings=4096)

    assert softmax_scale(192, RopeConfig(theta=1e4, dim=64, yarn=yarn)) == pytest.approx(1 / math.sqrt(192))
