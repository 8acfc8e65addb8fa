"""The run itself: rates, kernels, decode, prefill, and the verdict in the last line."""

import gc
from collections.abc import Sequence
from pathlib import Path

import torch

from .case import Case
from .error import INTERPRETED_TOLERANCE, TOLERANCE
from .machine import Machine
from .model import R1, TINY, Model
from .rates import Rates, measure
from .results import KernelResult, Report, decode_lines, kernel_lines, prefill_lines, rate_lines
from .sizes import FULL, SMALL
from .slices import LAYER_TOLERANCE, DecodeSlice, PrefillSlice
from .table import KERNELS, inputs

TARGET_US, TARGET_BATCH, TARGET_CONTEXT = 400.0, 128, 4096
"""One MoE layer of DeepSeek-R1 decode, the share of one of 64 ranks: 60% of an H200's limit."""
DECODE_RANKS, PREFILL_RANKS = 64, 32
DECODE = [(batch, context) for batch in (32, 64, 128, 256) for context in (1024, 2048, 4096, 8192)]
PREFILL = [(16384, prompt) for prompt in (1024, 2048, 4096, 8192)]
DRY_RANKS, DRY_DECODE, DRY_PREFILL = 4, [(3, 40)], [(48, 24)]


def run(*, dry: bool, parts: Sequence[str], results: Path) -> int:
    """Measure the parts, print and write them; return the exit status."""
    machine = Machine(dry=dry)
    report = Report(machine=machine, rates=measure(machine))
    print(machine.name, machine.versions(), *([] if dry else rate_lines(report.rates)), flush=True)
    with torch.inference_mode():
        if "kernels" in parts:
            report.kernels = _kernels(machine, report.rates)
        if "decode" in parts:
            _decode(machine, report)
        if "prefill" in parts:
            _prefill(machine, report)
    if not dry:
        print(f"written to {report.write(results)}")
    return _verdict(report)


def _kernels(machine: Machine, rates: Rates) -> list[KernelResult]:
    print(*([] if machine.dry else kernel_lines([])), sep="\n")
    found = []
    for build in KERNELS:
        case = build(inputs(machine.device), SMALL if machine.dry else FULL)
        found.append(_kernel(machine, rates, case))
        print(_progress(machine, found[-1]), flush=True)
        del case
        _free(machine)
    return found


def _kernel(machine: Machine, rates: Rates, case: Case) -> KernelResult:
    fp8 = "fp8" in case.name
    return KernelResult(
        operation=case.name,
        shape=case.shape,
        error=case.error(),
        tolerance=(INTERPRETED_TOLERANCE if machine.dry else TOLERANCE)[case.format],
        us=machine.kernel_us(case.run),
        limit_us=rates.limit_us(bytes_=case.bytes, flops=case.flops, fp8=fp8),
    )


def _progress(machine: Machine, found: KernelResult) -> str:
    if machine.dry:
        return f"| {found.operation} | {found.shape} | {found.error:.1e} |"
    return kernel_lines([found])[-1]


def _decode(machine: Machine, report: Report) -> None:
    model, ranks, sizes = (TINY, DRY_RANKS, DRY_DECODE) if machine.dry else (R1, DECODE_RANKS, DECODE)
    layers = DecodeSlice(machine, model, ranks)
    report.layer_error = layers.error(*(DRY_DECODE[0] if machine.dry else (32, 256)))
    _free(machine)
    print(f"a decode layer's error: {report.layer_error:.1e}", flush=True)
    for batch, context in sizes:
        report.decode.append(layers.measure(batch, context))
        _free(machine)
        if not machine.dry:
            print(*decode_lines(report.decode)[0 if len(report.decode) == 1 else -1 :], sep="\n", flush=True)


def _prefill(machine: Machine, report: Report) -> None:
    model, ranks, sizes = _prefill_sizes(machine)
    layers = PrefillSlice(machine, model, ranks)
    for tokens, prompt in sizes:
        report.prefill.append(layers.measure(tokens, prompt))
        _free(machine)
        if not machine.dry:
            print(
                *prefill_lines(report.prefill)[0 if len(report.prefill) == 1 else -1 :], sep="\n", flush=True
            )


def _prefill_sizes(machine: Machine) -> tuple[Model, int, list[tuple[int, int]]]:
    return (TINY, DRY_RANKS, DRY_PREFILL) if machine.dry else (R1, PREFILL_RANKS, PREFILL)


def _free(machine: Machine) -> None:
    gc.collect()
    if not machine.dry:
        torch.cuda.empty_cache()


def _verdict(report: Report) -> int:
    wrong = [f"{k.operation} {k.shape}" for k in report.kernels if not k.right]
    if report.layer_error is not None and not report.layer_error <= LAYER_TOLERANCE:
        wrong.append("a decode layer")
    if wrong:
        print(f"gpu: wrong results: {'; '.join(wrong)}")
        return 1
    if report.machine.dry:
        print("gpu: dry run, everything is within tolerance of its reference, nothing was timed")
        return 0
    for r in report.decode:
        if (r.batch, r.context) == (TARGET_BATCH, TARGET_CONTEXT):
            print(f"gpu: {r.layer_us:.0f} us a MoE layer (target <= {TARGET_US:.0f} us)")
            return 0 if r.layer_us <= TARGET_US else 1
    print("gpu: results right, the target's batch was not measured")
    return 0
