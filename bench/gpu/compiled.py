"""Compile every kernel for Hopper on a machine without a GPU, and tell what it takes of one.

Triton brings NVIDIA's assembler, so all of compilation works without a driver. The launchers run as ever,
on CPU tensors of small shapes; in the place of each launch stands the compilation alone.
"""

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from ...kernels.jit import WITHOUT_GPU
from .sizes import SMALL
from .table import KERNELS, Builder, inputs

HOPPER = GPUTarget("cuda", 90, 32)
SHARED_BYTES = 227 * 1024
"""Shared memory that one program may have on Hopper."""
H200_PROCESSORS = 132
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What one compiled kernel takes of a multiprocessor."""

    operation: str
    kernel: str
    shape: str
    warps: int
    registers: int
    stack_bytes: int
    """Registers that did not fit and went to memory, as bytes a thread"""
    shared_bytes: int
    matrix: str
    """Which matrix instructions it has: Hopper's own (wgmma), the older (mma), or none"""

    @property
    def fits(self) -> bool:
        """Whether Hopper can run it."""
        return self.shared_bytes <= SHARED_BYTES


class _NoDriver:
    """Stands where Triton looks for the GPU that it compiles for."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_all(builders: Sequence[Builder] = KERNELS) -> Iterator[Compiled]:
    """Compile the kernels of each case of a table."""
    for build in builders:
        case = build(inputs(torch.device("cpu")), SMALL)
        with _compiling() as kernels:
            case.run()
        for name, kernel in kernels:
            yield _describe(case.name, name, case.shape, kernel)


@contextmanager
def _compiling() -> Iterator[list[tuple[str, Any]]]:
    """Have launches compile only; gives the list that fills with kernels."""
    run, assumed, kernels = JITFunction.run, dict(WITHOUT_GPU), list[tuple[str, Any]]()

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernels.append((self.fn.__name__, run(self, *args, grid=grid, warmup=True, **options)))

    driver.set_active(_NoDriver())
    JITFunction.run = compile_only
    WITHOUT_GPU["processors"] = H200_PROCESSORS
    try:
        yield kernels
    finally:
        JITFunction.run = run
        WITHOUT_GPU.update(assumed)


def _describe(operation: str, name: str, shape: str, kernel: Any) -> Compiled:
    ptx: str = kernel.asm["ptx"]
    matrix = "wgmma" if "wgmma.mma_async" in ptx else "mma" if "mma.sync" in ptx else ""
    registers, stack = _resources(kernel.asm["cubin"])
    return Compiled(
        operation=operation,
        kernel=name,
        shape=shape,
        warps=kernel.metadata.num_warps,
        registers=registers,
        stack_bytes=stack,
        shared_bytes=kernel.metadata.shared,
        matrix=matrix,
    )


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and stack bytes a thread, read off the machine code."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        listing = subprocess.run([CUOBJDUMP, "-res-usage", file], capture_output=True, text=True, check=True)
    usage = re.search(r"REG:(\d+) STACK:(\d+)", listing.stdout + listing.stderr)
    assert usage, f"no resources in {listing.stdout!r}"
    return int(usage[1]), int(usage[2])
