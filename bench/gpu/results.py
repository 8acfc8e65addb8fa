"""What a run found, as a table for people and a file for comparison."""

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .machine import Machine
from .rates import Rates
from .slices import DecodeResult, PrefillResult


@dataclass(frozen=True, kw_only=True)
class KernelResult:
    """One kernel at one shape."""

    operation: str
    shape: str
    error: float
    tolerance: float
    us: float
    limit_us: float
    """By the rates that this GPU reached in the same run"""

    @property
    def right(self) -> bool:
        """Whether it equals its reference."""
        return self.error <= self.tolerance


@dataclass(kw_only=True)
class Report:
    """Everything one run found."""

    machine: Machine
    rates: Rates
    kernels: list[KernelResult] = field(default_factory=list)
    layer_error: float | None = None
    decode: list[DecodeResult] = field(default_factory=list)
    prefill: list[PrefillResult] = field(default_factory=list)

    def write(self, folder: Path) -> Path:
        """Write `<device>.json` and `<device>.md`; return the latter."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = re.sub(r"[^a-z0-9]+", "-", self.machine.name.lower()).strip("-")
        (folder / f"{stem}.json").write_text(json.dumps(self._record(), indent=1) + "\n")
        page = folder / f"{stem}.md"
        page.write_text("\n".join(self._page()) + "\n")
        return page

    def _record(self) -> dict[str, Any]:
        return {
            "device": self.machine.name,
            "versions": self.machine.versions(),
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "rates": vars(self.rates),
            "kernels": [vars(kernel) for kernel in self.kernels],
            "layer_error": self.layer_error,
            "decode": [result.record() for result in self.decode],
            "prefill": [result.record() for result in self.prefill],
        }

    def _page(self) -> list[str]:
        versions = ", ".join(f"{name} {version}" for name, version in self.machine.versions().items())
        lines = [f"# {self.machine.name}", "", versions, "", *rate_lines(self.rates)]
        if self.kernels:
            lines += ["", "## Kernels", "", *kernel_lines(self.kernels)]
        if self.decode:
            lines += [
                "",
                f"## Decode (a layer's error: {self.layer_error:.1e})",
                "",
                *decode_lines(self.decode),
            ]
        if self.prefill:
            lines += ["", "## Prefill", "", *prefill_lines(self.prefill)]
        return lines


def rate_lines(rates: Rates) -> list[str]:
    """The measured rates."""
    fp8 = f"{rates.fp8_flops_per_s / 1e12:.0f}" if rates.fp8_flops_per_s else "not measured"
    copy, bf16 = rates.copy_bytes_per_s / 1e12, rates.bf16_flops_per_s / 1e12
    return [f"copy {copy:.2f} TB/s, bfloat16 {bf16:.0f} TFLOPS, FP8 {fp8} TFLOPS"]


def kernel_lines(kernels: list[KernelResult]) -> list[str]:
    """A row a kernel and shape."""
    lines = ["| kernel | shape | error | us | limit us | of limit |", "|---|---|---|---|---|---|"]
    return lines + [
        f"| {k.operation} | {k.shape} | {k.error:.1e}{'' if k.right else ' WRONG'} | {k.us:.1f} "
        f"| {k.limit_us:.1f} | {k.limit_us / k.us:.0%} |"
        for k in kernels
    ]


def decode_lines(results: list[DecodeResult]) -> list[str]:
    """A row a batch size and context."""
    columns = ["batch", "context", "attention us", "MoE us", "layer us", "limit us", "of limit"]
    columns += ["tok/s", "tok/s at the limit", "tok/s, DeepEP waited for", "tok/s, DeepEP overlapped"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return lines + [
        f"| {r.batch} | {r.context} | {r.attention_us:.1f} | {r.moe_us:.1f} | {r.layer_us:.1f} "
        f"| {r.limit.total:.1f} | {r.share_of_limit:.0%} | {r.tokens_per_s:.0f} "
        f"| {r.batch / r.step_limit_us * 1e6:.0f} | {r.tokens_per_s_sent:.0f} "
        f"| {r.tokens_per_s_overlapped:.0f} |"
        for r in results
    ]


def prefill_lines(results: list[PrefillResult]) -> list[str]:
    """A row a prompt length."""
    lines = [
        "| tokens | prompt | attention us | MoE us | layer us | limit us | of limit | tok/s a layer |",
        "|" + "---|" * 8,
    ]
    return lines + [
        f"| {r.tokens} | {r.prompt} | {r.attention_us:.0f} | {r.moe_us:.0f} | {r.layer_us:.0f} "
        f"| {r.limit.total:.0f} | {r.limit.total / r.layer_us:.0%} | {r.tokens / r.layer_us * 1e6:.0f} |"
        for r in results
    ]
