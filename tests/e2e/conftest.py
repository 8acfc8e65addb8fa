"""Whole fleets: `baton up` on tiny random checkpoints, block checksums on, NIXL between the workers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from baton.bench.fleet import RunningFleet, running_fleet
from support.checkpoints import MAKERS
from support.fleets import CHECKSUMS, SMALL_POOL


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of an architecture's tiny checkpoint, made once."""
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            MAKERS[architecture](folder)
            made[architecture] = folder
        return made[architecture]

    return make


@pytest.fixture(scope="module")
def fleet(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningFleet]:
    """One prefill and one decode worker on the DeepSeek-V3 checkpoint."""
    log = tmp_path_factory.mktemp("fleet") / "log"
    model = ("--model", str(checkpoint("deepseek_v3")), "--served-model-name", "tiny")
    with running_fleet(log, *model, *CHECKSUMS, *SMALL_POOL) as running:
        yield running
