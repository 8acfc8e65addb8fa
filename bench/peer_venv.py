"""Other people's servers, from PyPI, each kind in a virtual environment of its own outside the tree."""

import asyncio
import os
import sys
from pathlib import Path

STAMP = "installed.txt"


class PeerError(RuntimeError):
    """A peer cannot be installed; the message holds pip's last lines."""


def cache_folder(name: str) -> Path:
    """Return where an environment lies unless told otherwise."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "baton" / name


async def make_peer_venv(folder: Path, *installs: tuple[str, ...]) -> bool:
    """Make the environment unless it stands, by one `pip install` for each of `installs`; tell whether it was
    made.

    A stamp names what was asked for: other requirements make the environment anew. Raises `PeerError`.
    """
    stamp = folder / STAMP
    wanted = "\n".join(" ".join(install) for install in installs)
    if stamp.exists() and stamp.read_text() == wanted:
        return False
    await _run(sys.executable, "-m", "venv", "--clear", str(folder))
    for install in installs:
        await _run(str(folder / "bin" / "pip"), "install", "--quiet", *install)
    stamp.write_text(wanted)
    return True


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    if process.returncode:
        tail = "\n".join(out.decode(errors="replace").splitlines()[-10:])
        raise PeerError(f"{' '.join(command)} failed:\n{tail}")
