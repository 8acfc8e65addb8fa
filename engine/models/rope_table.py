"""The angles of rotary position embedding, by position, with YaRN (arXiv 2309.00071) where configured."""

import math

import torch
from torch import Tensor

from .config import RopeConfig, YarnConfig


def rope_table(config: RopeConfig, positions: int, device: torch.device) -> Tensor:
    """Return the rotation of every pair at every position: `[positions, dim / 2]` complex64.

    A pair's number is `attention_factor * exp(i * position * frequency)`.
    """
    angles = torch.outer(torch.arange(positions).float(), _frequencies(config))
    size = torch.full_like(angles, _attention_factor(config.yarn) if config.yarn else 1.0)
    return torch.polar(size, angles).to(device)


def softmax_scale(head_dim: int, rope: RopeConfig) -> float:
    """MLA's factor on the scores: `head_dim ** -0.5`, times YaRN's squared mscale over all dimensions."""
    scale = 1.0 / math.sqrt(head_dim)
    if rope.yarn and rope.yarn.mscale_all_dim:
        scale *= _mscale(rope.yarn.factor, rope.yarn.mscale_all_dim) ** 2
    return scale


def _frequencies(config: RopeConfig) -> Tensor:
    """Radians a position turns each pair by, fastest first: `[dim / 2]`."""
    plain: Tensor = 1.0 / config.theta ** (torch.arange(0, config.dim, 2).float() / config.dim)
    if config.yarn is None:
        return plain
    low, high = _ramp_bounds(config.yarn, config.dim, config.theta)
    ramp = ((torch.arange(config.dim // 2).float() - low) / (high - low)).clamp(0, 1)
    return plain / config.yarn.factor * ramp + plain * (1 - ramp)


def _ramp_bounds(yarn: YarnConfig, dim: int, theta: float) -> tuple[float, float]:
    """Pairs below the first keep their frequency, pairs above the second are interpolated."""

    def pair(rotations: float) -> float:
        length = yarn.original_max_position_embeddings / (rotations * 2 * math.pi)
        return dim * math.log(length) / (2 * math.log(theta))

    low, high = pair(yarn.beta_fast), pair(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    return low, high if high != low else high + 0.001


def _attention_factor(yarn: YarnConfig) -> float:
    if yarn.attention_factor is not None:
        return yarn.attention_factor
    if yarn.mscale and yarn.mscale_all_dim:
        return _mscale(yarn.factor, yarn.mscale) / _mscale(yarn.factor, yarn.mscale_all_dim)
    return _mscale(yarn.factor, 1.0)


def _mscale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0
