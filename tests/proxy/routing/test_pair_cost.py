"""Pair cost goes where the request is done soonest, counts what others lose, and can say why."""

import random

import msgspec
import pytest

from baton.proxy.routing import pair_cost
from baton.proxy.routing.fleet import Fleet
from baton.proxy.routing.load import WorkerFacts
from baton.proxy.routing.memory import RoutingMemory
from baton.proxy.routing.pair_cost import PairCost, PairCostConfig
from baton.proxy.routing.policy import Decision
from baton.proxy.routing.prices import Scales
from baton.proxy.routing.view import RequestView
from baton.proxy.simulator.simulation import MODEL, FleetSize, simulated_fleet

NO_ALONE = PairCostConfig(decode_alone=False)


class Bench:
    """A fleet, its memory and the policy."""

    def __init__(self, prefill: int = 2, decode: int = 2, config: PairCostConfig = NO_ALONE) -> None:
        self.fleet: Fleet = simulated_fleet(FleetSize(prefill, decode))
        self.memory = RoutingMemory(config.index, config.rates, now=0.0)
        self.policy = PairCost(config, self.memory)
        self.sent: list[RequestView] = []

    def send(self, prefill: str | None, decode: str, keys: list[int], tokens: int | None = None) -> None:
        """Have a request on its way to these workers."""
        workers = self.fleet.workers
        sent = request(keys, tokens)
        self.sent.append(sent)
        self.memory.dispatched(sent, Decision(workers[decode], workers[prefill] if prefill else None), 0.0)

    def finish(self, now: float = 0.0) -> None:
        for sent in self.sent:
            self.memory.streaming(sent, cached_tokens=None, now=now)
            self.memory.ended(sent, output_tokens=None, now=now)
        self.sent.clear()

    def decide(self, keys: list[int], tokens: int | None = None, now: float = 0.0) -> Decision:
        decision = self.policy.decide(request(keys, tokens), self.fleet, now)
        assert decision is not None
        return decision

    def names(self, keys: list[int], tokens: int | None = None, now: float = 0.0) -> tuple[str | None, str]:
        decision = self.decide(keys, tokens, now)
        return (decision.prefill.name if decision.prefill else None), decision.decode.name


def request(keys: list[int], tokens: int | None = None) -> RequestView:
    length = tokens if tokens is not None else max(len(keys) * 512, 1)
    return RequestView("r", MODEL, length, 256, prefix_keys=list(keys), key_tokens=512.0)


def blocks(count: int, first: int = 0) -> list[int]:
    return list(range(first, first + count))


def test_a_prompt_goes_where_its_prefix_is() -> None:
    bench = Bench()
    bench.send("p1", "d1", blocks(20))
    bench.finish()

    assert bench.names(blocks(22)) == ("p1", "d1")


def test_it_leaves_its_prefix_when_the_queue_there_is_longer_than_the_work() -> None:
    bench = Bench(config=PairCostConfig(decode_alone=False, scales=Scales(backlog=0.0)))
    bench.send("p1", "d1", blocks(4))
    bench.finish()
    bench.send("p1", "d1", blocks(200, first=1000))

    assert bench.names(blocks(6))[0] == "p0"


def test_while_everyone_queues_work_that_is_saved_counts_for_more() -> None:
    def chosen(backlog: float) -> str | None:
        bench = Bench(config=PairCostConfig(decode_alone=False, scales=Scales(backlog=backlog)))
        bench.send("p1", "d1", blocks(20))
        bench.finish()
        for number in range(4):
            bench.send("p0", "d0", blocks(20, first=1000 + 100 * number))
            bench.send("p1", "d1", blocks(26, first=5000 + 100 * number))
        return bench.names(blocks(22))[0]

    assert (chosen(0.0), chosen(1.0)) == ("p0", "p1")


def test_a_short_rest_is_computed_by_the_decode_worker_that_has_the_others() -> None:
    bench = Bench(config=PairCostConfig())
    bench.send("p0", "d1", blocks(40))
    bench.finish()
    bench.send("p0", "d0", blocks(40, first=1000))
    bench.send("p1", "d0", blocks(40, first=2000))

    assert bench.names(blocks(20), tokens=20 * 512 + 100) == (None, "d1")


def test_a_long_prefix_is_not_trusted_to_be_there_whole_where_decode_would_compute_what_is_gone() -> None:
    bench = Bench(config=PairCostConfig())
    bench.send("p0", "d1", blocks(60))
    bench.finish()
    bench.send("p0", "d0", blocks(60, first=1000))
    bench.send("p1", "d0", blocks(60, first=2000))

    assert bench.names(blocks(60), tokens=60 * 512 + 100)[0] is not None


def test_the_next_captured_size_is_avoided() -> None:
    bench = Bench()
    for name in ("d0", "d1"):
        facts = WorkerFacts(captured_batch_sizes=(1, 2, 4, 64))
        bench.memory.describe(bench.fleet.workers[name], facts)
    for number in range(4):
        bench.send("p0", "d0", [100 + number])
    for number in range(2):
        bench.send("p0", "d1", [200 + number])
    bench.send("p0", "d1", [300], tokens=20_000)

    assert bench.names([1])[1] == "d1"


def test_in_lockstep_the_slowest_rank_is_not_made_slower() -> None:
    bench = Bench(decode=3)
    for name in ("d0", "d1", "d2"):
        bench.memory.describe(bench.fleet.workers[name], WorkerFacts(lockstep_group="all"))
    bench.send("p0", "d0", [100], tokens=50_000)
    bench.send("p0", "d2", [200], tokens=20_000)

    assert bench.names([1], tokens=10_000)[1] == "d1"
    terms = {c.decode: c.terms["step"] for c in bench.decide([1], tokens=10_000).why.candidates()}  # type: ignore[union-attr]
    assert terms["d1"] < terms["d2"] < terms["d0"]


def test_a_decode_worker_without_room_waits_and_is_not_preferred() -> None:
    bench = Bench()
    bench.memory.describe(bench.fleet.workers["d0"], WorkerFacts(kv_tokens_capacity=3000))
    bench.send("p0", "d0", [100], tokens=2500)
    bench.send("p0", "d1", [200], tokens=6000)
    bench.send("p0", "d1", [300], tokens=6000)

    assert bench.names([1], tokens=1000)[1] == "d1"


def test_workers_that_were_tried_are_never_chosen_again() -> None:
    bench = Bench()
    asked = request(blocks(4))
    asked.tried_prefill |= {"p0"}
    asked.tried_decode |= {"d0"}
    decision = bench.policy.decide(asked, bench.fleet, 0.0)
    asked.tried_decode |= {"d1"}

    assert decision is not None
    assert (decision.prefill, decision.decode) == (bench.fleet.workers["p1"], bench.fleet.workers["d1"])
    assert bench.policy.decide(asked, bench.fleet, 0.0) is None


def test_without_a_prefill_worker_decode_serves_alone_even_where_it_may_not_choose_to() -> None:
    bench = Bench()
    asked = request(blocks(4))
    asked.tried_prefill |= {"p0", "p1"}
    decision = bench.policy.decide(asked, bench.fleet, 0.0)
    asked = request(blocks(4))
    asked.decode_only = True
    only = bench.policy.decide(asked, bench.fleet, 0.0)

    assert decision is not None
    assert only is not None
    assert decision.prefill is only.prefill is None


def test_a_worker_that_cools_off_comes_last_but_before_none() -> None:
    bench = Bench()
    bench.fleet.workers["p0"].cooling_until = bench.fleet.workers["d0"].cooling_until = 50.0
    assert bench.names(blocks(2), now=10.0) == ("p1", "d1")

    bench.fleet.workers["d1"].cooling_until = 50.0
    assert bench.names(blocks(2), now=10.0)[0] == "p1"


def test_a_new_worker_gets_little_at_first_and_its_share_later() -> None:
    bench = Bench()
    bench.send("p0", "d0", blocks(10, first=100))
    new = bench.fleet.workers["p1"]
    bench.fleet.missed(new, "gone", 0.0)
    for _ in range(3):
        bench.fleet.missed(new, "gone", 0.0)
    bench.fleet.sighted(new, new.sighting, 0.0)
    bench.fleet.joined(new, 0.0)

    assert bench.names(blocks(2), now=0.1)[0] == "p0"
    bench.send("p0", "d0", blocks(10, first=200))
    assert bench.names(blocks(2), now=20.0)[0] == "p1"


def test_a_fleet_that_is_new_as_a_whole_is_not_doubted() -> None:
    bench = Bench(config=PairCostConfig())
    for worker in bench.fleet.workers.values():
        worker.since = 0.0
    why = bench.decide(blocks(2), now=0.5).why

    assert why is not None
    candidates = why.candidates()
    assert {candidate.prefill for candidate in candidates} == {None, "p0", "p1"}
    assert all(candidate.terms["doubt"] == 0.0 for candidate in candidates)


def test_missed_probes_make_a_worker_dearer_but_stop_nobody() -> None:
    bench = Bench()
    bench.fleet.workers["p0"].missed_probes = 1
    assert bench.names(blocks(2))[0] == "p1"

    bench.fleet.workers["p1"].missed_probes = 2
    assert bench.names(blocks(2))[0] == "p0"


def test_the_longer_an_answer_is_late_the_less_its_worker_is_trusted() -> None:
    bench = Bench()
    bench.send("p0", "d0", blocks(4, first=100))
    bench.send("p1", "d1", blocks(40, first=200))

    assert bench.names(blocks(4), now=0.0)[0] == "p0"
    assert bench.names(blocks(4), now=10.0)[0] == "p1"


def test_only_pairs_that_shook_hands_are_chosen() -> None:
    bench = Bench(3, 3)
    bench.fleet._shaken.clear()
    bench.fleet.shaken(bench.fleet.workers["p2"], bench.fleet.workers["d1"])
    bench.send("p2", "d1", blocks(50, first=100))

    assert bench.names(blocks(4)) == ("p2", "d1")


def test_a_slow_link_is_left_for_a_better_one() -> None:
    bench = Bench(1, 2)
    for _ in range(40):
        bench.memory.rates.transferred("p0", "d0", kv_bytes=10**8, seconds=2.0, now=0.0)
        bench.memory.rates.transferred("p0", "d1", kv_bytes=10**8, seconds=0.02, now=0.0)

    assert bench.names(blocks(4)) == ("p0", "d1")


def test_every_candidate_is_explained_and_its_terms_add_up_to_its_cost() -> None:
    bench = Bench(3, 2, PairCostConfig())
    bench.send("p1", "d1", blocks(20))
    decision = bench.decide(blocks(22))
    assert decision.why is not None
    bench.finish()
    candidates = decision.why.candidates()

    assert {c.prefill for c in candidates} >= {"p0", "p1", "p2"}
    assert {c.decode for c in candidates} == {"d0", "d1"}
    assert [c.chosen for c in candidates].count(True) == 1
    for candidate in candidates:
        assert sum(candidate.terms.values()) == pytest.approx(2 * candidate.terms["cost"])
    assert candidates[0].terms["cost"] == min(c.terms["cost"] for c in candidates)


def test_an_explanation_asked_for_later_tells_what_was_compared_then() -> None:
    bench = Bench(4, 4, PairCostConfig())
    bench.send("p1", "d1", blocks(20))
    early, late = bench.decide(blocks(22)).why, bench.decide(blocks(22)).why
    assert early is not None
    assert late is not None
    told = early.candidates()
    for prefill in ("p0", "p1", "p2", "p3"):
        for decode in ("d0", "d1", "d2", "d3"):
            bench.memory.rates.transferred(prefill, decode, kv_bytes=10**8, seconds=2.0, now=0.0)
    bench.finish(now=9.0)

    assert late.candidates() == told


def test_a_term_that_is_switched_off_counts_nothing() -> None:
    off = Scales(wait=0, prefill=0, backlog=0, transfer=0, decode_wait=0, step=0, interference=0, overdue=0)
    bench = Bench(config=msgspec.structs.replace(NO_ALONE, scales=off))
    bench.send("p0", "d0", blocks(20))

    why = bench.decide(blocks(30)).why
    assert why is not None
    assert all(candidate.terms["cost"] == 0.0 for candidate in why.candidates())


def test_deciding_changes_nothing() -> None:
    bench = Bench(4, 4)
    bench.send("p1", "d1", blocks(20))

    assert len({bench.names(blocks(22)) for _ in range(5)}) == 1


def test_among_many_the_short_way_finds_what_pricing_everyone_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    lot = random.Random(4)
    bench = Bench(120, 120)
    for number in range(700):
        p, d = f"p{lot.randrange(120)}", f"d{lot.randrange(120)}"
        shared = blocks(lot.choice([2, 2, 2, 10, 40]), first=100_000)
        bench.send(p, d, shared + blocks(lot.randrange(1, 30), first=100 * number))
        if number < 300:
            bench.finish()
    worse = []
    for _ in range(40):
        asked = blocks(lot.choice([2, 10, 40]), first=100_000) + blocks(lot.randrange(1, 20), first=90_000)
        quick = cost(bench.decide(asked))
        monkeypatch.setattr(pair_cost, "EXACT", 1000)
        monkeypatch.setattr(pair_cost, "PAIRED", 1000)
        whole = cost(bench.decide(asked))
        monkeypatch.undo()
        # Backlog is the mean of those priced, so that the same pair has another price: compare shares.
        worse.append(quick / whole)

    assert sorted(worse)[len(worse) // 2] < 1.05
    assert max(worse) < 1.5


def cost(decision: Decision) -> float:
    assert decision.why is not None
    terms = decision.why.candidates()[0].terms
    return terms["cost"]


def test_what_others_would_feel_is_not_computed_by_decode_even_while_it_idles() -> None:
    bench = Bench(config=msgspec.structs.replace(PairCostConfig(), scales=Scales(interference=0.0)))
    bench.send("p0", "d1", blocks(40))
    bench.finish()
    assert bench.names(blocks(20), tokens=20 * 512 + 3000)[0] == "p0"
    assert bench.names(blocks(20), tokens=20 * 512 + 400) == (None, "d1")

    bench.send("p0", "d1", [7000])
    assert bench.names(blocks(20), tokens=20 * 512 + 3000)[0] == "p0"
    assert bench.names(blocks(20), tokens=20 * 512 + 400) == (None, "d1")
