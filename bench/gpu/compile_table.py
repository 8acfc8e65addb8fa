"""Print what every kernel takes of a Hopper multiprocessor, compiled on a machine without a GPU."""

import triton

from .compiled import SHARED_BYTES, compile_all


def print_table() -> int:
    """Print a row a kernel; the exit status says whether Hopper can run them all."""
    print(f"triton {triton.__version__}, sm_90a\n")
    print("| operation | kernel | shape | warps | registers | spilled bytes | shared KiB | matrix units |")
    print("|" + "---|" * 8)
    fit = True
    for c in compile_all():
        fit = fit and c.fits
        print(
            f"| {c.operation} | {c.kernel} | {c.shape} | {c.warps} | {c.registers} | {c.stack_bytes} "
            f"| {c.shared_bytes / 1024:.0f} | {c.matrix} |",
            flush=True,
        )
    print(f"\ngpu: every kernel fits {SHARED_BYTES // 1024} KiB: {'yes' if fit else 'no'}")
    return 0 if fit else 1
