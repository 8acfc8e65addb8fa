"""The other routers, from PyPI, in an environment of their own outside the tree."""

import asyncio
import os
import sys
from pathlib import Path

from .compiled import BenchError

REQUIREMENTS = ("vllm-router==0.1.17", "sglang-router==0.3.2")
STAMP = "installed.txt"


def default_folder() -> Path:
    """Return where the environment lies unless told otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "baton" / "bench-proxy-peers"


async def install_peers(folder: Path) -> None:
    """Make the environment unless it stands. Raises `BenchError` with pip's last lines when that fails."""
    stamp, wanted = folder / STAMP, "\n".join(REQUIREMENTS)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {', '.join(REQUIREMENTS)} into {folder}", flush=True)
    await _run(sys.executable, "-m", "venv", str(folder))
    await _run(str(folder / "bin" / "pip"), "install", "--quiet", *REQUIREMENTS)
    stamp.write_text(wanted)


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    if process.returncode:
        tail = "\n".join(out.decode(errors="replace").splitlines()[-10:])
        raise BenchError(f"{' '.join(command)} failed:\n{tail}")
