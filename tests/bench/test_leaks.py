"""What is left behind is found in the books of workers and proxy."""

from typing import Any

import pytest

from baton.bench.leaks import fleet_problems, worker_problems


def check(**changes: Any) -> dict[str, Any]:
    blocks = {"free": 8, "cached": 2, "in_use": 0, "quarantined": 0, "total": 10}
    return {"ok": True, "blocks": blocks, "leases": 0, "pulls": 0, "requests": 0, **changes}


def fleet(handovers: dict[str, int], tokens: int = 0, requests: int = 0) -> dict[str, Any]:
    legs = {"prefill": {"requests": requests, "tokens": 0}, "decode": {"requests": 0, "tokens": 0}}
    return {"workers": [{"name": "p", "handover_tokens": tokens, **legs}], "handovers": handovers}


def test_an_idle_worker_has_no_problem() -> None:
    assert worker_problems(check()) == []


@pytest.mark.parametrize(
    "report",
    [
        check(ok=False),
        check(leases=1),
        check(pulls=1),
        check(requests=1),
        check(blocks={"free": 7, "cached": 2, "in_use": 1, "quarantined": 0, "total": 10}),
        check(blocks={"free": 7, "cached": 2, "in_use": 0, "quarantined": 1, "total": 10}),
        {"error": "nothing listens"},
    ],
)
def test_whatever_a_worker_still_holds_is_a_problem(report: dict[str, Any]) -> None:
    assert len(worker_problems(report)) == 1


def test_an_idle_proxy_has_no_problem() -> None:
    assert fleet_problems(fleet({"granted": 0})) == []


@pytest.mark.parametrize(
    "report",
    [fleet({"granted": 1}), fleet({}, tokens=9), fleet({}, requests=1), {"error": "nothing listens"}],
)
def test_whatever_the_ledger_still_holds_is_a_problem(report: dict[str, Any]) -> None:
    assert len(fleet_problems(report)) == 1
