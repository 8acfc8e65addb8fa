"""Check and time every kernel, then one GPU's share of DeepSeek-R1.

python -m baton.bench.gpu                    on a GPU; results go to bench/gpu/results/
python -m baton.bench.gpu --parts kernels    only some of: kernels, decode, prefill
python -m baton.bench.gpu --dry              no GPU: every path once, small, through Triton's interpreter
python -m baton.bench.gpu --table            no GPU: bench/KERNELS.md, every kernel's error by number format
python -m baton.bench.gpu --compile          no GPU: compile every kernel for Hopper, list what each takes
"""

import argparse
import os
import sys
from pathlib import Path

import torch

from ...kernels.by_device import force_triton

PARTS = ("kernels", "decode", "prefill")
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run what was asked for; the exit status says whether everything was right and the target held."""
    parser = argparse.ArgumentParser(prog="bench-gpu", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder that results are written to")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--dry", action="store_true", help="through the interpreter, no figures")
    alone.add_argument("--compile", action="store_true", help="compile for Hopper, run nothing")
    alone.add_argument("--table", action="store_true", help="through the interpreter, write bench/KERNELS.md")
    options = parser.parse_args()
    if options.compile:
        from .compile_table import print_table  # noqa: PLC0415 - before it, triton may not be imported

        return print_table()
    if options.dry or options.table:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported, which `run` does
        torch.set_num_threads(1)
        force_triton()
    elif not torch.cuda.is_available():
        print("gpu: no GPU here; --dry or --compile work without one", file=sys.stderr)
        return 2
    if options.table:
        from .kernel_page import write_page  # noqa: PLC0415

        return write_page()
    from .run import run  # noqa: PLC0415

    return run(dry=options.dry, parts=options.parts, results=options.results)


if __name__ == "__main__":
    sys.exit(main())
