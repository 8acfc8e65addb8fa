"""Each baseline follows its published rule, and all policies keep what every policy must."""

from collections import Counter

import msgspec
import pytest

from baton.proxy.routing.fleet import Fleet
from baton.proxy.routing.memory import RoutingMemory
from baton.proxy.routing.policy import Decision, Policy
from baton.proxy.routing.policy_file import DEFAULTS, build_policy, memory_for, parse_policy
from baton.proxy.routing.view import RequestView
from baton.proxy.simulator.simulation import MODEL, FleetSize, simulated_fleet

KEYS = list(range(10))


class Bench:
    """A fleet of three by three, its memory and a policy."""

    def __init__(self, text: str) -> None:
        config = parse_policy(text, "test")
        self.fleet: Fleet = simulated_fleet(FleetSize(3, 3))
        self.memory: RoutingMemory = memory_for(config, now=0.0)
        self.policy: Policy = build_policy(config, self.memory)
        self.held: list[RequestView] = []

    def send(self, prefill: str, decode: str, keys: list[int]) -> None:
        workers = self.fleet.workers
        sent = request(keys)
        self.held.append(sent)
        self.memory.dispatched(sent, Decision(workers[decode], workers[prefill]), 0.0)
        self.memory.streaming(sent, cached_tokens=None, now=0.0)

    def busy(self, **requests: int) -> None:
        for name, count in requests.items():
            worker = self.fleet.workers[name]
            worker.prefill_requests = worker.decode_requests = count

    def decide(self, asked: RequestView | None = None) -> Decision:
        decision = self.policy.decide(asked or request(KEYS), self.fleet, 0.0)
        assert decision is not None
        return decision

    def names(self, keys: list[int] | None = None) -> tuple[str | None, str]:
        decision = self.decide(request(KEYS if keys is None else keys))
        return (decision.prefill.name if decision.prefill else None), decision.decode.name


def request(keys: list[int]) -> RequestView:
    tokens = max(len(keys), 1) * 512
    return RequestView("r", MODEL, tokens, 256, prefix_keys=list(keys), key_tokens=512.0)


@pytest.mark.parametrize("name", DEFAULTS)
def test_no_policy_chooses_a_worker_that_failed_the_request(name: str) -> None:
    bench, asked = Bench(f"policy: {name}"), request(KEYS)
    bench.send("p1", "d1", KEYS)
    asked.tried_prefill |= {"p0", "p1"}
    asked.tried_decode |= {"d0", "d1"}
    for _ in range(5):
        decision = bench.decide(asked)
        assert decision.decode.name == "d2"
        assert decision.prefill is None or decision.prefill.name == "p2"
    asked.tried_decode |= {"d2"}
    assert bench.policy.decide(asked, bench.fleet, 0.0) is None


@pytest.mark.parametrize("name", DEFAULTS)
def test_no_policy_splits_what_cannot_be_split(name: str) -> None:
    asked = request(KEYS)
    asked.decode_only = True

    assert Bench(f"policy: {name}").decide(asked).prefill is None


@pytest.mark.parametrize("name", sorted(set(DEFAULTS) - {"round_robin", "least_tokens"}))
def test_every_weighing_policy_explains_its_choice(name: str) -> None:
    bench = Bench(f"policy: {name}")
    bench.send("p1", "d1", KEYS)
    decision = bench.decide()

    assert decision.why is not None
    chosen = [candidate for candidate in decision.why.candidates() if candidate.chosen]
    assert {c.decode for c in chosen} - {None} == {decision.decode.name}
    assert {c.prefill for c in chosen} - {None} == ({decision.prefill.name} if decision.prefill else set())


def test_random_spreads_evenly_and_repeats_by_seed() -> None:
    counts = Counter(Bench("policy: random").names() for _ in range(1))
    bench, twin = Bench("policy: random\nseed: 3"), Bench("policy: random\nseed: 3")
    drawn = [bench.names() for _ in range(600)]

    assert counts
    assert drawn == [twin.names() for _ in range(600)]
    assert all(150 < count < 250 for count in Counter(prefill for prefill, _ in drawn).values())


def test_least_loaded_takes_the_fewest_requests() -> None:
    bench = Bench("policy: least_loaded")
    bench.busy(p0=3, p1=1, p2=2, d0=0, d1=5, d2=5)

    assert bench.names() == ("p1", "d0")


def test_power_of_two_never_takes_the_busiest_of_three() -> None:
    bench = Bench("policy: power_of_two")
    bench.busy(p0=9, p1=1, p2=2, d0=1, d1=9, d2=1)
    drawn = {bench.names() for _ in range(100)}

    assert {prefill for prefill, _ in drawn} == {"p1", "p2"}
    assert {decode for _, decode in drawn} == {"d0", "d2"}


def test_cache_aware_follows_the_match_until_the_fleet_is_imbalanced() -> None:
    bench = Bench("policy: cache_aware")
    bench.send("p1", "d1", KEYS[:4])
    bench.busy(p1=64, d1=64)
    assert bench.names() == ("p1", "d1")

    bench.busy(p0=0, p1=65, p2=1, d0=0, d1=65, d2=1)
    assert bench.names() == ("p0", "d0")


def test_cache_aware_takes_the_smallest_tree_for_a_poor_match() -> None:
    bench = Bench("policy: cache_aware")
    bench.send("p0", "d0", KEYS[:3])
    bench.send("p1", "d1", [50, 51])

    assert bench.names() == ("p2", "d2")


def test_dynamo_takes_the_fewest_blocks_to_compute_and_knows_no_overlap_on_decode() -> None:
    bench = Bench("policy: dynamo_cost")
    bench.send("p1", "d1", KEYS)
    bench.send("p0", "d0", [70])
    bench.send("p2", "d2", [60, 61, 62])
    load = bench.memory.load
    load.prompt_done(load.prefill_row("p1"), id(bench.held[0]), 0.0)

    assert bench.names() == ("p1", "d0")


def test_lmetric_multiplies_tokens_by_the_crowd() -> None:
    bench = Bench("policy: lmetric")
    bench.send("p1", "d1", KEYS[:5])
    load = bench.memory.load
    load.prompt_done(load.prefill_row("p1"), id(bench.held[0]), 0.0)
    bench.busy(p0=1, p1=2, p2=1)
    why = bench.decide().why
    assert why is not None
    terms = {c.prefill: c.terms for c in why.candidates() if c.prefill}

    assert terms["p1"] == {"tokens": 2560.0, "requests": 3, "product": 7680.0}
    assert terms["p0"] == {"tokens": 5120.0, "requests": 2, "product": 10240.0}


def test_scorers_weigh_match_against_queue() -> None:
    bench = Bench("policy: scorers\nnon_cached_tokens: 0")
    bench.send("p1", "d1", KEYS[:8])
    bench.busy(p0=1, p1=3, p2=1)
    assert bench.names()[0] == "p1"

    weights = "scorers: [{scorer: prefix, weight: 1}, {scorer: queue, weight: 2}]"
    bench = Bench(f"policy: scorers\nprefill: {{{weights}}}")
    bench.send("p1", "d1", KEYS[:8])
    bench.busy(p0=1, p1=3, p2=2)
    assert bench.names()[0] == "p0"


def test_scores_outside_their_range_are_cut_off() -> None:
    weights = "scorers: [{scorer: load_aware, weight: 1}]"
    bench = Bench(f"policy: scorers\nload_aware_threshold: 2\nprefill: {{{weights}}}")
    bench.busy(p0=100, p1=3, p2=1)
    why = bench.decide().why
    assert why is not None
    scores = {c.prefill: c.terms["load_aware"] for c in why.candidates() if c.prefill}

    assert scores == {"p0": 0.0, "p1": 0.0, "p2": 0.25}


def test_a_filter_that_leaves_nobody_is_not_applied() -> None:
    bench = Bench("policy: scorers\nprefill: {filters: [prefix_affinity]}")
    assert bench.names()[0] is not None

    bench.send("p1", "d1", KEYS)
    bench.busy(p1=50)
    assert bench.decide(request([*KEYS, 99])).prefill is bench.fleet.workers["p1"]


def test_scorers_leave_prefill_out_when_decode_has_all_but_a_few_tokens() -> None:
    bench = Bench("policy: scorers")
    bench.send("p1", "d1", KEYS)

    assert bench.names() == (None, "d1")
    assert msgspec.structs.asdict(DEFAULTS["scorers"])["non_cached_tokens"] == 16
