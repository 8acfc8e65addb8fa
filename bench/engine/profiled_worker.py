"""A decode worker whose engine tells where its time goes. `split` starts it.

python -P -m baton.bench.engine.profiled_worker MODEL SHARES [KEY=VALUE ...]
"""

import sys
from pathlib import Path

from ...cli.settings import load_settings
from ...engine.config import WorkerConfig
from ...engine.worker import run_worker
from .workload import SERVED_NAME


def main() -> None:
    """Serve until told to stop."""
    model, shares, *overrides = sys.argv[1:]
    flags = {"role": "decode", "model": model, "served_model_name": SERVED_NAME}
    config = load_settings(WorkerConfig, file=None, flags=flags, overrides=overrides)

    def engine(config_path: Path, ipc_path: Path) -> list[str]:
        module = [sys.executable, "-P", "-m", "baton.bench.engine.profiled_engine", "--shares", shares]
        return [*module, "--config", str(config_path), "--ipc", str(ipc_path)]

    run_worker(config, engine)


if __name__ == "__main__":
    main()
