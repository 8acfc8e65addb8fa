"""The engine process gets quiet threads and huge pages, unless the environment says otherwise."""

import sys

import pytest

from baton.engine.api.engine_process import EngineProcess


async def told(variable: str) -> str:
    tell = [sys.executable, "-c", f"import os; print(os.environ['{variable}'])"]
    process = await EngineProcess.start(tell)
    assert await process.run() == "exit status 0"
    return process.last_lines()


async def test_compute_threads_sleep_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)

    assert await told("OMP_WAIT_POLICY") == "passive"


async def test_the_environment_can_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")

    assert await told("OMP_WAIT_POLICY") == "active"


async def test_memory_comes_in_huge_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)

    assert await told("GLIBC_TUNABLES") == "glibc.malloc.hugetlb=1"
