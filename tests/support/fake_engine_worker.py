"""A worker process whose engine process is the fake one: `python fake_engine_worker.py CONFIG SCRIPT`."""

import sys
from pathlib import Path

import msgspec

from baton.engine.config import WorkerConfig
from baton.engine.worker import run_worker

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")


def fake_engine(config_path: Path, ipc_path: Path) -> list[str]:
    """Return the fake engine's command line."""
    paths = ["--config", str(config_path), "--ipc", str(ipc_path)]
    return [sys.executable, "-P", str(FAKE_ENGINE), *paths, "--script", sys.argv[2]]


if __name__ == "__main__":
    run_worker(msgspec.json.decode(sys.argv[1], type=WorkerConfig), fake_engine)
