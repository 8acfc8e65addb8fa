"""A session goes on where it was, unless that costs more than leaving; its memory is bounded."""

from baton.proxy.routing.fleet import Fleet
from baton.proxy.routing.memory import RoutingMemory
from baton.proxy.routing.observer import Leg
from baton.proxy.routing.pair_cost import PairCost, PairCostConfig
from baton.proxy.routing.policy import Decision
from baton.proxy.routing.scorers import Profile, ScorerName, Scorers, ScorersConfig, Weight
from baton.proxy.routing.sessions import Sessions
from baton.proxy.routing.view import RequestView
from baton.proxy.simulator.simulation import MODEL, FleetSize, simulated_fleet

MAX_AGE_S = 600.0


def request(session: str = "s", tokens: int = 10, model: str = MODEL) -> RequestView:
    return RequestView("r", model, tokens, 256, session=session.encode(), prefix_keys=[], key_tokens=512.0)


class Bench:
    """A fleet, its memory, and requests that were sent."""

    def __init__(self, size: int = 2, config: PairCostConfig | None = None) -> None:
        config = config or PairCostConfig(slow_start_s=0.0)
        self.fleet: Fleet = simulated_fleet(FleetSize(size, size))
        self.memory = RoutingMemory(config.index, config.rates, now=0.0)
        self.policy = PairCost(config, self.memory)

    def decision(self, prefill: str | None, decode: str) -> Decision:
        workers = self.fleet.workers
        return Decision(workers[decode], workers[prefill] if prefill else None)

    def served(self, view: RequestView, prefill: str | None, decode: str) -> None:
        self.memory.dispatched(view, self.decision(prefill, decode), 0.0)
        self.memory.ended(view, output_tokens=None, now=0.0)

    def chosen(self, view: RequestView, now: float = 0.0) -> tuple[str | None, str]:
        decision = self.policy.decide(view, self.fleet, now)
        assert decision is not None
        return (decision.prefill.name if decision.prefill else None), decision.decode.name


def test_a_session_goes_on_where_it_was_even_if_its_bytes_do_not_tell() -> None:
    bench = Bench(config=PairCostConfig(decode_alone=False))
    bench.served(request(), "p1", "d1")

    assert bench.chosen(request()) == ("p1", "d1")
    assert bench.chosen(request("another")) == ("p0", "d0")
    assert bench.chosen(request("")) == ("p0", "d0")


def test_a_session_leaves_a_worker_whose_queue_costs_more_than_leaving() -> None:
    bench = Bench(config=PairCostConfig(decode_alone=False, session_cost_s=0.2))
    bench.served(request(), "p1", "d1")
    bench.memory.dispatched(request("x", tokens=1_000), bench.decision("p1", "d0"), 0.0)
    soon = bench.chosen(request())
    bench.memory.dispatched(request("y", tokens=10_000), bench.decision("p1", "d0"), 0.0)

    assert (soon[0], bench.chosen(request())[0]) == ("p1", "p0")


def test_leaving_the_sessions_prefill_worker_costs_decode_alone_as_much() -> None:
    bench = Bench(config=PairCostConfig(session_cost_s=100.0))
    bench.served(request(), "p1", "d1")

    assert bench.chosen(request(tokens=5)) == ("p1", "d1")


def test_a_session_among_many_workers_is_found_again() -> None:
    bench = Bench(size=64, config=PairCostConfig(decode_alone=False))
    bench.served(request(), "p50", "d40")

    assert bench.chosen(request()) == ("p50", "d40")


def test_a_worker_that_failed_the_request_is_left_at_no_cost() -> None:
    bench = Bench(config=PairCostConfig(decode_alone=False))
    bench.served(request(), "p1", "d1")
    again = request()
    again.tried_prefill.add("p1")
    decision = bench.policy.decide(again, bench.fleet, 0.0)

    assert decision is not None
    assert decision.prefill is bench.fleet.workers["p0"]
    assert decision.why is not None
    assert next(iter(decision.why.candidates())).terms["doubt"] == 0.0


def test_a_restart_ends_what_a_worker_is_remembered_for() -> None:
    bench = Bench(config=PairCostConfig(decode_alone=False))
    bench.served(request(), "p1", "d1")
    bench.memory.restarted(bench.fleet.workers["p1"])

    assert bench.chosen(request()) == ("p0", "d1")


def test_a_worker_under_the_name_of_a_removed_one_is_another() -> None:
    bench = Bench(config=PairCostConfig(decode_alone=False))
    worker = bench.fleet.workers["p1"]
    bench.memory.restarted(worker)
    bench.served(request(), "p1", "d1")
    assert bench.chosen(request()) == ("p1", "d1")

    bench.memory.removed(worker)
    assert bench.chosen(request()) == ("p0", "d1")


def test_scorers_can_weigh_it() -> None:
    profile = Profile(scorers=(Weight(scorer=ScorerName.SESSION),))
    bench = Bench(size=8)
    bench.served(request(), "p5", "d6")
    policy = Scorers(ScorersConfig(prefill=profile, decode=profile, non_cached_tokens=0), bench.memory)

    assert policy.decide(request(), bench.fleet, 0.0) == bench.decision("p5", "d6")


def sessions(most: int = 100) -> tuple[Sessions, Bench]:
    return Sessions(most=most, max_age_s=MAX_AGE_S), Bench()


def test_only_the_sessions_used_last_are_remembered() -> None:
    known, bench = sessions(most=2)
    for name in ("a", "b", "a", "c"):
        known.dispatched(request(name), bench.decision("p1", "d1"), 0.0)

    assert len(known) == 2
    assert [known.last(request(name), Leg.DECODE, 0.0) for name in "abc"] == ["d1", None, "d1"]


def test_a_session_is_forgotten_after_its_age_and_its_model_is_part_of_its_name() -> None:
    known, bench = sessions()
    known.dispatched(request(), bench.decision("p1", "d1"), 0.0)

    assert known.last(request(), Leg.PREFILL, MAX_AGE_S) == "p1"
    assert known.last(request(), Leg.PREFILL, MAX_AGE_S + 1) is None
    assert known.last(request(model="other"), Leg.PREFILL, 0.0) is None


def test_a_turn_that_decode_serves_alone_keeps_the_sessions_prefill_worker() -> None:
    known, bench = sessions()
    known.dispatched(request(), bench.decision("p1", "d1"), 0.0)
    known.dispatched(request(), bench.decision(None, "d0"), 0.0)

    assert known.last(request(), Leg.PREFILL, 0.0) == "p1"
    assert known.last(request(), Leg.DECODE, 0.0) == "d0"
