"""`X-Session-ID` keeps a session on its workers, and goes on to them."""

from pathlib import Path

import pytest

from .fakes import Answer, FakeWorker, chat
from .house import House, housed

BY_SESSION = """policy: scorers
prefill: {scorers: [{scorer: session}]}
decode: {scorers: [{scorer: session}]}
non_cached_tokens: 0
"""
"""Among workers that no session was on, the lot decides."""


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.yaml"
    path.write_text(BY_SESSION)
    return str(path)


def place(answer: Answer) -> tuple[str, str]:
    return answer.headers["x-baton-prefill"], answer.headers["x-baton-decode"]


async def places(house: House, *lines: str) -> set[tuple[str, str]]:
    return {place(await house.ask(chat(), *lines)) for _ in range(10)}


async def test_requests_of_a_session_stay_together_and_those_without_do_not(policy: str) -> None:
    workers = [FakeWorker(role) for role in ("prefill", "decode") for _ in range(3)]
    async with housed(*workers, policy=policy) as house:
        assert len(await places(house)) > 1
        assert len(await places(house, "X-Session-ID: one")) == 1
        assert len(await places(house, "x-session-id: two")) == 1

        told = {request.headers.get("x-session-id") for w in workers for request in w.requests}
        assert told == {None, "one", "two"}
