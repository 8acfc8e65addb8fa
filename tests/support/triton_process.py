"""Plays `model_scenario` in a process in which every kernel is its Triton form."""

import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

TESTS = Path(__file__).parents[1]


def play_through_triton(folder: Path, result: Path, *options: str) -> tuple[set[str], dict[str, Tensor]]:
    """Return the Triton files that were used, and what `play` gives; `options` are switches of loading."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "support.model_scenario", str(folder), str(result), *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=380,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()), load_file(result)
