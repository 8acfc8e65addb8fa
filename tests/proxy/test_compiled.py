"""Modules that run compiled are what their sources say."""

import importlib.machinery
import os
from pathlib import Path

from baton.proxy.compiled import compiled_modules, outdated_modules

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]


def place(folder: Path, name: str, *, at_s: float) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (at_s, at_s))


def test_none_runs_from_a_source_that_has_changed_since() -> None:
    assert outdated_modules() == [], "run `make compiled` again, or `make uncompiled`"


def test_a_source_that_is_newer_or_gone_is_told(tmp_path: Path) -> None:
    for name in ("same", "routing/changed", "gone", "in_c", "in_c_changed"):
        place(tmp_path, name + SUFFIX, at_s=10)
    place(tmp_path, "machine_code__mypyc" + SUFFIX, at_s=10)
    place(tmp_path, "same.py", at_s=9)
    place(tmp_path, "routing/changed.py", at_s=11)
    place(tmp_path, "in_c.c", at_s=9)
    place(tmp_path, "in_c_changed.c", at_s=11)
    place(tmp_path, "never_compiled.py", at_s=12)
    assert compiled_modules(tmp_path) == ["gone", "in_c", "in_c_changed", "routing/changed", "same"]
    assert outdated_modules(tmp_path) == ["gone", "in_c_changed", "routing/changed"]
