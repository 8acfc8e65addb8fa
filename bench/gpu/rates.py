"""The rates that this very GPU reaches at what it does best: what kernels are held against."""

from dataclasses import dataclass

import torch

from .machine import Machine


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured, not from a data sheet."""

    copy_bytes_per_s: float
    """Bytes read and bytes written, together"""
    bf16_flops_per_s: float
    fp8_flops_per_s: float | None
    """None where torch has no FP8 product for this device"""

    def limit_us(self, *, bytes_: int, flops: int, fp8: bool) -> float:
        """Least time for that much traffic and arithmetic, the two overlapped."""
        matrix = self.fp8_flops_per_s if fp8 and self.fp8_flops_per_s else self.bf16_flops_per_s
        return max(bytes_ / self.copy_bytes_per_s, flops / matrix) * 1e6


def measure(machine: Machine) -> Rates:
    """Measure with torch's own copy and cuBLAS."""
    side = 64 if machine.dry else 8192
    values = (1 << 10) if machine.dry else (1 << 30)
    source = torch.ones(values, dtype=torch.uint8, device=machine.device)
    target = torch.empty_like(source)
    copy_us = machine.kernel_us(lambda: target.copy_(source))
    left, right = (torch.randn(side, side, device=machine.device) for _ in range(2))
    flops = 2 * side**3
    bf16 = left.bfloat16(), right.bfloat16()
    return Rates(
        copy_bytes_per_s=2 * values / copy_us * 1e6,
        bf16_flops_per_s=flops / machine.kernel_us(lambda: torch.mm(*bf16)) * 1e6,
        fp8_flops_per_s=None if machine.dry else flops / _fp8_us(machine, left, right) * 1e6,
    )


def _fp8_us(machine: Machine, left: torch.Tensor, right: torch.Tensor) -> float:
    one = torch.ones((), device=machine.device)
    a, b = left.to(torch.float8_e4m3fn), right.to(torch.float8_e4m3fn).t()
    return machine.kernel_us(
        lambda: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)  # noqa: SLF001
    )
