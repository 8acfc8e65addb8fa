"""Kernels compile for Hopper where there is no GPU, and what they take of it is read off the machine code."""

import os
import subprocess
import sys

COMPILE_TWO = """
from baton.bench.gpu.compiled import compile_all
from baton.bench.gpu.table import ELEMENTWISE, MOE
for kernel in compile_all([ELEMENTWISE[0], MOE[8]]):
    print(kernel.kernel, kernel.matrix or "none", kernel.registers > 0, kernel.fits)
"""


def test_a_norm_and_a_grouped_product() -> None:
    # A process of its own: here the interpreter may stand in the compiler's place.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}

    done = subprocess.run(
        [sys.executable, "-P", "-c", COMPILE_TWO],
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "_add_rms_norm_kernel none True True",
        "_masked_kernel wgmma True True",
    ]
