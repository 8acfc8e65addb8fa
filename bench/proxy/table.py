"""From samples to tables: medians over the rounds, ratios between runs of the same round, the verdict."""

import statistics
from collections.abc import Callable, Sequence

import msgspec

from ..table import render
from .rounds import Sample
from .workloads import Workload

TARGET = 0.50
MIB = 1024 * 1024
HEADER = (
    "system", "n", "CPU us/req", "CPU us/chunk", "kinstr/req", "kinstr/chunk", "req/s", "failed",
    "added TTFT ms p50/p99", "added latency ms p50/p99", "added chunk delay ms p50/p99", "RSS MiB",
    "CPU ratio (least-most)", "instr. ratio",
)  # fmt: skip


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The worst required workload, and what Baton failed at: a cheap failure holds no target."""

    ratio: float | None
    workload: str | None
    failures: int = 0
    """Baton's own failed requests."""
    lost_cases: int = 0
    """Faults in which Baton lost requests."""
    compares: bool = True
    """Whether a required workload was asked for."""

    @property
    def holds(self) -> bool:
        """Whether nothing failed and the target is met, where it was to be measured."""
        if self.failures or self.lost_cases:
            return False
        return self.ratio <= TARGET if self.ratio is not None else not self.compares

    @property
    def line(self) -> str:
        """The bench's last line."""
        failed = f", {self.failures} requests FAILED" if self.failures else ""
        failed += f", requests LOST in {self.lost_cases} kinds of faults" if self.lost_cases else ""
        if self.ratio is not None:
            return f"proxy: {self.ratio:.2f} x vllm-router CPU (target <= {TARGET:.2f}{failed})"
        if self.compares:
            missing = "vllm-rr, baton or the required workloads did not run"
            return f"proxy: not measured (target <= {TARGET:.2f}{failed}): {missing}"
        return f"proxy: CPU not asked for{failed or ', nothing failed'}"


def verdict(
    samples: Sequence[Sample], system: str, reference: str, *, lost_cases: int = 0, compares: bool = True
) -> Verdict:
    """Compare `system` with `reference` on the required workloads.

    lost_cases  faults in which `system` lost requests
    compares    whether a required workload was asked for
    """
    failures = sum(sample.load.bad for sample in samples if sample.system == system)
    ratios = {}
    for workload in workloads_in(samples):
        pairs = paired(samples, workload, system, reference, cpu)
        if workload.required and pairs:
            ratios[workload.name] = statistics.median(pairs)
    worst = max(ratios, key=lambda name: ratios[name], default=None)
    return Verdict(
        ratio=None if worst is None else ratios[worst],
        workload=worst,
        failures=failures,
        lost_cases=lost_cases,
        compares=compares,
    )


def workloads_in(samples: Sequence[Sample]) -> list[Workload]:
    """Return the workloads measured, in their order."""
    return list({sample.workload.name: sample.workload for sample in samples}.values())


Figure = Callable[[Sample], float | None]


def cpu(sample: Sample) -> float | None:
    """CPU time per unit; None where no router was."""
    return sample.cpu_us_per_unit if sample.resident_bytes is not None and sample.load.requests else None


def instructions(sample: Sample) -> float | None:
    """Instructions per answered request."""
    counted = sample.instructions is not None and sample.load.requests
    return sample.instructions / sample.load.requests if sample.instructions and counted else None


def paired(
    samples: Sequence[Sample], workload: Workload, system: str, reference: str, figure: Figure
) -> list[float]:
    """Return the ratios of `system` to `reference`, each within one round."""
    mine, theirs = (
        {
            sample.round: value
            for sample in samples
            if (sample.workload.name, sample.system) == (workload.name, name)
            and (value := figure(sample)) is not None
        }
        for name in (system, reference)
    )
    return [mine[number] / theirs[number] for number in sorted(mine.keys() & theirs.keys()) if theirs[number]]


def workload_table(samples: Sequence[Sample], workload: Workload, reference: str) -> str:
    """Return the table of one workload, a row a system."""
    here = [sample for sample in samples if sample.workload.name == workload.name]
    direct = {sample.round: sample for sample in here if sample.system == "direct"}
    names = list(dict.fromkeys(sample.system for sample in sorted(here, key=_order)))
    return render(HEADER, [_row(here, direct, workload, name, reference) for name in names])


def _order(sample: Sample) -> tuple[bool, str]:
    return (sample.system != "direct", sample.system)


def _row(
    here: Sequence[Sample], direct: dict[int, Sample], workload: Workload, name: str, reference: str
) -> list[str]:
    mine = [sample for sample in here if sample.system == name]
    routed = mine[0].resident_bytes is not None
    ratios = paired(here, workload, name, reference, cpu)
    instruction_ratios = paired(here, workload, name, reference, instructions)
    counted = [value for sample in mine if (value := instructions(sample)) is not None]
    per_chunk = [count / workload.chunks for count in counted]
    memory = [sample.resident_bytes / MIB for sample in mine if sample.resident_bytes is not None]
    return [
        name,
        str(len(mine)),
        _median([s.cpu_us_per_request for s in mine], "{:.0f}") if routed else "-",
        _median([s.cpu_us_per_chunk for s in mine], "{:.1f}") if routed else "-",
        _median([count / 1000 for count in counted], "{:.0f}", missing="n/a") if routed else "-",
        _median([count / 1000 for count in per_chunk], "{:.1f}", missing="n/a") if routed else "-",
        _median([s.load.requests / s.load.seconds for s in mine], "{:.0f}"),
        str(sum(s.load.bad for s in mine)),
        _added(mine, direct, lambda s: s.load.ttft_us),
        _added(mine, direct, lambda s: s.load.latency_us),
        _added(mine, direct, lambda s: s.load.delay_us),
        _median(memory, "{:.0f}"),
        _spread(ratios),
        _median(instruction_ratios, "{:.2f}"),
    ]


def _median(values: Sequence[float], form: str, *, missing: str = "-") -> str:
    return form.format(statistics.median(values)) if values else missing


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "-"


def _added(
    mine: Sequence[Sample], direct: dict[int, Sample], times: Callable[[Sample], tuple[int, int]]
) -> str:
    """Return the medians of what the router added to p50 and p99; the times themselves without a router."""
    base = {sample.round: (0, 0) if sample is direct.get(sample.round) else None for sample in mine}
    added = []
    for sample in mine:
        without = base[sample.round] or (times(direct[sample.round]) if sample.round in direct else None)
        if without is not None:
            added.append([(time - less) / 1000 for time, less in zip(times(sample), without, strict=True)])
    if not added:
        return "-"
    p50, p99 = (statistics.median(column) for column in zip(*added, strict=True))
    return f"{p50:.2f} / {p99:.2f}"
