"""CPU time and memory are those of a process and its children."""

import os
import subprocess
import sys

import pytest

from baton.bench.processes import process_tree
from baton.bench.proxy.measure import cpu_of, memory_of, parse_instructions

BUSY = "import time; print(flush=True)\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"


def test_cpu_time_of_another_process_is_seen() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with cpu_of(child.pid) as cpu:
            child.stdout.readline()
        assert child.pid in process_tree(os.getpid())
        memory = memory_of([child.pid])
        child.communicate(b"\n")

    assert 0.1 < cpu.cpu_s < 0.5
    assert 2**20 < memory.resident_bytes <= memory.peak_bytes


def test_nothing_is_measured_where_no_router_is() -> None:
    with cpu_of(None) as cpu:
        sum(range(1000))

    assert (cpu.pids, cpu.cpu_s) == ([], 0.0)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("12345,,instructions:u,1000,100.00,,\n", 12345),
        ("<not supported>,,instructions:u,0,100.00,,\n", None),
        ("", None),
    ],
)
def test_instructions_that_were_not_counted_are_none(text: str, count: int | None) -> None:
    assert parse_instructions(text) == count
