"""A tensor that is made again after it was freed costs no page faults."""

import platform
import resource
import subprocess
import sys

import pytest

MAKE_TENSORS_AGAIN = """
import resource, torch
from baton.engine.host_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_memory_is_used_again_without_going_back_to_the_system() -> None:
    pages = 40_000_000 // resource.getpagesize()

    run = subprocess.run(
        [sys.executable, "-P", "-c", MAKE_TENSORS_AGAIN], capture_output=True, text=True, check=True
    )

    assert int(run.stdout) < pages
