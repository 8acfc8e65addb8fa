"""The engine process of a worker, with its time told apart; the flags of `engine.process`, and one more.

    python -P -m baton.bench.engine.profiled_engine --shares FILE --config ... --ipc ...

SIGUSR1 has it write the `Shares` since the last one to FILE.
"""

import signal
import sys
from pathlib import Path

import msgspec

from ...engine.process import main as run_engine
from .profile import Profiler


def main() -> int:
    """Run one engine; return its exit status."""
    flag, shares, *arguments = sys.argv[1:]
    assert flag == "--shares"
    file = Path(shares)
    profiler = Profiler()

    def on_request(*_: object) -> None:
        written = file.with_suffix(".new")
        written.write_bytes(msgspec.json.encode(profiler.take()))
        written.replace(file)

    signal.signal(signal.SIGUSR1, on_request)
    profiler.start()
    return run_engine(arguments)


if __name__ == "__main__":
    sys.exit(main())
