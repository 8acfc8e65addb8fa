"""The other routers, from PyPI, in an environment of their own outside the tree."""

from pathlib import Path

from ..peer_venv import PeerError, cache_folder, make_peer_venv
from .compiled import BenchError

REQUIREMENTS = ("vllm-router==0.1.17", "sglang-router==0.3.2")


def default_folder() -> Path:
    """Return where the environment lies unless told otherwise."""
    return cache_folder("bench-proxy-peers")


async def install_peers(folder: Path) -> None:
    """Make the environment unless it stands. Raises `BenchError` with pip's last lines when that fails."""
    try:
        await make_peer_venv(folder, REQUIREMENTS)
    except PeerError as error:
        raise BenchError(str(error)) from error
