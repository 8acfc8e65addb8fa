"""Operations are compiled once a machine, for its processor; whatever is missing, torch does instead."""

import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from baton.kernels import rms_norm
from baton.kernels.by_device import native, reads_blocks, reference
from baton.kernels.native import library as subject
from baton.kernels.native.library import COMPILERS, FLAGS, CompileError, library, load

COMMAND = ["c++", *FLAGS]
needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Sources that compile at once, in the place of the real ones."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "answer.cpp").write_text('extern "C" long answer() { return 42; }\n')
    monkeypatch.setattr(subject, "SOURCES", sources)
    return sources


@pytest.fixture
def nothing_loaded() -> Iterator[None]:
    library.cache_clear()
    native.cache_clear()
    yield
    library.cache_clear()
    native.cache_clear()


@pytest.mark.usefixtures("nothing_loaded")
def test_without_a_compiler_operations_run_in_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert library() is None
    assert native(reference(rms_norm.rms_norm)) is reference(rms_norm.rms_norm)
    assert not reads_blocks(torch.zeros(1))
    assert "no C++ compiler" in caplog.text


@pytest.mark.usefixtures("nothing_loaded")
def test_a_compiler_that_fails_is_reported_and_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in COMPILERS:
        (tmp_path / name).write_text("#!/bin/sh\necho 'no such header' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    assert library() is None
    assert "no such header" in caplog.text


@needs_compiler
@pytest.mark.usefixtures("small")
def test_what_was_compiled_is_used_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load(COMMAND, tmp_path / "cache")
        [compiled] = (tmp_path / "cache").glob("*.so")
        written = compiled.stat().st_mtime_ns
        load(COMMAND, tmp_path / "cache")

    assert compiled.stat().st_mtime_ns == written
    assert caplog.text.count("compiling operations") == 1


@needs_compiler
@pytest.mark.usefixtures("small")
def test_other_flags_are_another_library(tmp_path: Path) -> None:
    load(COMMAND, tmp_path / "cache")
    load([*COMMAND, "-DOTHER"], tmp_path / "cache")

    assert len(list((tmp_path / "cache").glob("*.so"))) == 2


@needs_compiler
@pytest.mark.usefixtures("small")
def test_where_nothing_can_be_kept_a_process_compiles_for_itself(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    compiled = load(COMMAND, tmp_path / "file" / "cache")

    assert compiled.answer() == 42


@needs_compiler
def test_sources_that_do_not_compile_are_an_error(small: Path, tmp_path: Path) -> None:
    (small / "broken.cpp").write_text("not C++\n")

    with pytest.raises(CompileError, match="c\\+\\+ failed"):
        load(COMMAND, tmp_path / "cache")


@needs_compiler
def test_other_sources_are_another_library(small: Path, tmp_path: Path) -> None:
    before = load(COMMAND, tmp_path / "cache").answer()
    (small / "answer.cpp").write_text('extern "C" long answer() { return 43; }\n')

    assert (before, load(COMMAND, tmp_path / "cache").answer()) == (42, 43)
