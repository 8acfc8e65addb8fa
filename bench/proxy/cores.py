"""Who runs on which core: the router alone on one, what surrounds it on the others."""

import os
from pathlib import Path

import msgspec


class Cores(msgspec.Struct, frozen=True):
    """Cores by who uses them."""

    router: int
    load: tuple[int, ...]
    """Shared by mock workers and load generator."""

    def pinned(self, cores: int | tuple[int, ...], program: str | Path, *parts: str) -> list[str]:
        """Return the command that runs `program` on `cores` alone."""
        listed = ",".join(map(str, cores if isinstance(cores, tuple) else (cores,)))
        return ["taskset", "-c", listed, str(program), *parts]


def share_cores() -> Cores:
    """Divide the cores that this process may use."""
    first, *others = sorted(os.sched_getaffinity(0))
    return Cores(router=first, load=tuple(others[:2]) or (first,))
