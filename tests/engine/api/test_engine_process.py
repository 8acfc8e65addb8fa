"""The engine process gets threads that sleep while they wait, unless the environment says otherwise."""

import sys

import pytest

from baton.engine.api.engine_process import EngineProcess

TELL_POLICY = [sys.executable, "-c", "import os; print(os.environ['OMP_WAIT_POLICY'])"]


async def policy_told() -> str:
    process = await EngineProcess.start(TELL_POLICY)
    assert await process.run() == "exit status 0"
    return process.last_lines()


async def test_compute_threads_sleep_while_they_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)

    assert await policy_told() == "passive"


async def test_the_environment_can_say_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")

    assert await policy_told() == "active"
