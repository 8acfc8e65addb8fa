"""Which modules of the proxy run compiled (`make compiled`), and whether their sources have changed since.

A source is Python; that of the relay is C.
"""

import importlib.machinery
from pathlib import Path

FOLDER = Path(__file__).parent
SHARED = "machine_code__mypyc"
"""The library that holds the code of all of them."""


def compiled_modules(folder: Path = FOLDER) -> list[str]:
    """Return the modules under `folder` that are compiled, by their path in it without a suffix."""
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    found = (str(each.relative_to(folder)).removesuffix(suffix) for each in folder.glob(f"**/*{suffix}"))
    return sorted(name for name in found if name != SHARED)


def outdated_modules(folder: Path = FOLDER) -> list[str]:
    """Return those whose source has changed since, or is gone: what runs is not what stands there."""
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    return [
        name
        for name in compiled_modules(folder)
        if not (source := _source(folder, name)).exists()
        or source.stat().st_mtime > (folder / f"{name}{suffix}").stat().st_mtime
    ]


def _source(folder: Path, name: str) -> Path:
    in_c = folder / f"{name}.c"
    return in_c if in_c.exists() else folder / f"{name}.py"
