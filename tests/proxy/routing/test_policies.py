"""What the shipped policies choose."""

import pytest

from baton.proxy.routing.fleet import Fleet, Kind, Role, Sighting, Worker
from baton.proxy.routing.least_tokens import LeastTokens
from baton.proxy.routing.policy import Policy
from baton.proxy.routing.round_robin import RoundRobin
from baton.proxy.routing.view import RequestView


def fleet_of(*names: str) -> Fleet:
    """Workers that need no handshake, so that pairs are all free to hand over."""
    roles = {"p": Role.PREFILL, "d": Role.DECODE}
    fleet = Fleet(Worker(name, roles[name[0]], Kind.VLLM) for name in names)
    for worker in fleet.workers.values():
        fleet.sighted(worker, Sighting(ready=True, models=frozenset({"m"})), 0.0)
        fleet.joined(worker, 0.0)
    return fleet


def request(model: str = "m", **fields: object) -> RequestView:
    view = RequestView(request_id="r", model=model, prompt_tokens=10, output_tokens=5)
    for name, value in fields.items():
        setattr(view, name, value)
    return view


def chosen(
    policy: Policy, fleet: Fleet, view: RequestView, now: float = 0.0
) -> tuple[str | None, str] | None:
    decision = policy.decide(view, fleet, now)
    if decision is None:
        return None
    return (decision.prefill.name if decision.prefill is not None else None, decision.decode.name)


POLICIES = [RoundRobin, LeastTokens]


def test_round_robin_takes_each_in_turn() -> None:
    policy, fleet = RoundRobin(), fleet_of("p1", "p2", "d1", "d2", "d3")

    assert [chosen(policy, fleet, request()) for _ in range(4)] == [
        ("p1", "d1"),
        ("p2", "d2"),
        ("p1", "d3"),
        ("p2", "d1"),
    ]


def test_least_tokens_takes_the_one_with_least_to_do_per_leg() -> None:
    policy, fleet = LeastTokens(), fleet_of("p1", "p2", "d1", "d2")
    fleet.workers["p1"].prefill_tokens = 100
    fleet.workers["d2"].decode_tokens = 100

    assert chosen(policy, fleet, request()) == ("p2", "d1")


def test_least_tokens_breaks_ties_by_who_was_chosen_longest_ago() -> None:
    policy, fleet = LeastTokens(), fleet_of("p1", "p2", "d1", "d2")

    assert [chosen(policy, fleet, request()) for _ in range(3)] == [("p1", "d1"), ("p2", "d2"), ("p1", "d1")]


@pytest.mark.parametrize("make", POLICIES)
class TestEveryPolicy:
    def test_chooses_nobody_when_no_decode_worker_is_left(self, make: type[Policy]) -> None:
        fleet = fleet_of("p1", "d1")

        assert chosen(make(), fleet, request(model="other")) is None
        assert chosen(make(), fleet, request(tried_decode={"d1"})) is None

    def test_leaves_out_prefill_when_every_prefill_worker_was_tried(self, make: type[Policy]) -> None:
        assert chosen(make(), fleet_of("p1", "d1"), request(tried_prefill={"p1"})) == (None, "d1")

    def test_leaves_out_prefill_for_what_cannot_be_split(self, make: type[Policy]) -> None:
        assert chosen(make(), fleet_of("p1", "d1"), request(decode_only=True)) == (None, "d1")

    def test_passes_over_a_cooling_worker_while_there_are_others(self, make: type[Policy]) -> None:
        fleet = fleet_of("p1", "d1", "d2")
        policy = make()
        fleet.workers["d1"].cooling_until = 10.0

        assert {chosen(policy, fleet, request(), now=9.0) for _ in range(4)} == {("p1", "d2")}
        assert chosen(policy, fleet, request(tried_decode={"d2"}), now=9.0) == ("p1", "d1")
        assert {chosen(policy, fleet, request(), now=10.0) for _ in range(4)} == {("p1", "d1"), ("p1", "d2")}
