"""The verdict is the worst required workload's median ratio, and failures spoil it."""

import pytest

from baton.bench.proxy.compiled import LoadReport
from baton.bench.proxy.rounds import Sample
from baton.bench.proxy.table import cpu, paired, verdict, workload_table
from baton.bench.proxy.workloads import WORKLOADS, Workload

BY_NAME = {workload.name: workload for workload in WORKLOADS}


def sample(number: int, system: str, workload: Workload, cpu_s: float, bad: int = 0) -> Sample:
    load = LoadReport(
        requests=100,
        bad=bad,
        events=100 * workload.chunks,
        seconds=2.0,
        ttft_us=(1000 if system == "direct" else 3500, 9000),
        latency_us=(1000, 9000),
        delay_us=(10, 20),
        statuses={"200": 100},
    )
    return Sample(
        round=number,
        system=system,
        workload=workload,
        load=load,
        cpu_s=cpu_s,
        instructions=None,
        resident_bytes=None if system == "direct" else 2**20,
    )


def run(ratios: dict[str, list[float]], bad: int = 0) -> list[Sample]:
    samples = []
    for name, values in ratios.items():
        for number, ratio in enumerate(values):
            theirs = 0.04 * (number + 1)
            samples.append(sample(number, "vllm-rr", BY_NAME[name], theirs))
            samples.append(sample(number, "baton", BY_NAME[name], theirs * ratio, bad))
    return samples


def test_ratios_are_within_a_round_and_the_median_counts() -> None:
    samples = run({"req200": [0.3, 0.4, 0.9]})

    assert paired(samples, BY_NAME["req200"], "baton", "vllm-rr", cpu) == pytest.approx([0.3, 0.4, 0.9])
    assert verdict(samples, "baton", "vllm-rr").line == "proxy: 0.40 x vllm-router CPU (target <= 0.50)"


def test_the_worst_required_workload_decides() -> None:
    result = verdict(run({"req200": [0.3], "sp256": [0.45], "sp32": [0.9]}), "baton", "vllm-rr")

    assert (result.workload, result.holds) == ("sp256", True)
    assert result.ratio == pytest.approx(0.45)


def test_more_than_half_misses_the_target() -> None:
    assert not verdict(run({"req8k": [0.51]}), "baton", "vllm-rr").holds


def test_a_failed_request_misses_the_target() -> None:
    result = verdict(run({"req200": [0.1]}, bad=2), "baton", "vllm-rr")

    assert not result.holds
    assert "2 requests FAILED" in result.line


def test_nothing_measured_is_no_success() -> None:
    result = verdict(run({"sp32": [0.1]}), "baton", "vllm-rr")

    assert not result.holds
    assert "not measured" in result.line


@pytest.mark.parametrize(
    ("lost_cases", "holds", "line"),
    [
        (0, True, "proxy: CPU not asked for, nothing failed"),
        (2, False, "proxy: CPU not asked for, requests LOST in 2 kinds of faults"),
    ],
)
def test_faults_alone_hold_where_nothing_is_lost(lost_cases: int, holds: bool, line: str) -> None:
    result = verdict([], "baton", "vllm-rr", lost_cases=lost_cases, compares=False)

    assert (result.holds, result.line) == (holds, line)


def test_a_request_lost_in_a_fault_spoils_a_cheap_run() -> None:
    result = verdict(run({"req200": [0.3]}), "baton", "vllm-rr", lost_cases=1)

    assert not result.holds
    assert "requests LOST in 1 kinds" in result.line


def test_a_row_says_what_the_router_added_to_the_direct_way() -> None:
    workload = BY_NAME["req200"]
    samples = [sample(0, "direct", workload, 0.0), sample(0, "vllm-rr", workload, 0.04)]
    lines = workload_table(samples, workload, "vllm-rr").splitlines()

    assert "1.00 / 9.00" in lines[2]
    assert "2.50 / 0.00" in lines[3]
    assert "n/a" in lines[3]
