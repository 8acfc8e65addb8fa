"""The memory learns from every exchange, and gives back all that a request took."""

import pytest

from baton.proxy.routing.load import WorkerFacts
from baton.proxy.routing.memory import IndexConfig, RoutingMemory
from baton.proxy.routing.observer import Leg
from baton.proxy.routing.policy import Decision
from baton.proxy.routing.rates import RateConfig
from baton.proxy.routing.view import RequestView
from baton.proxy.simulator.simulation import MODEL, FleetSize, simulated_fleet

FLEET = simulated_fleet(FleetSize(2, 2))
P0, P1, D0, D1 = (FLEET.workers[name] for name in ("p0", "p1", "d0", "d1"))
KEYS = [11, 12, 13, 14]


def memory() -> RoutingMemory:
    return RoutingMemory(IndexConfig(), RateConfig(), now=0.0)


def request(keys: list[int] | None = None, *, prompt: bytes = b"", tokens: int = 2048) -> RequestView:
    made = RequestView("r", MODEL, tokens, 256, prompt)
    if not prompt:
        made.prefix_keys, made.key_tokens = list(KEYS if keys is None else keys), 512.0
    return made


def matches(learned: RoutingMemory, asked: RequestView, now: float = 0.0) -> dict[str, int]:
    return learned.match(asked, now).by_worker()


def test_a_prompt_is_known_to_prefill_from_dispatch_on_and_to_decode_once_it_streams() -> None:
    learned, sent = memory(), request()
    learned.dispatched(sent, Decision(D0, P0), 0.0)
    assert matches(learned, request([*KEYS, 15])) == {"p0": 4}

    learned.prefilled(sent, prompt_tokens=2048, cached_tokens=0, now=1.0)
    learned.streaming(sent, cached_tokens=None, now=2.0)
    assert matches(learned, request([*KEYS, 15])) == {"p0": 4, "d0": 4}


def test_a_growing_conversation_shares_the_keys_of_its_bytes() -> None:
    learned, first = memory(), b"x" * 4000
    learned.dispatched(request(prompt=first, tokens=1000), Decision(D0, P0), 0.0)
    grown = request(prompt=first + b"y" * 4000, tokens=2000)

    assert matches(learned, grown)["p0"] == 3
    assert learned.cached_tokens(grown, "p0", 3) == pytest.approx(3 * IndexConfig().chunk_bytes / 4)


def test_models_do_not_share_prefixes() -> None:
    learned, text = memory(), b"x" * 2000
    learned.dispatched(request(prompt=text), Decision(D0, P0), 0.0)
    other = RequestView("o", "another model", 500, 256, text)

    assert matches(learned, other) == {}


def test_a_failed_dispatch_is_taken_back_but_for_what_was_known_before() -> None:
    learned = memory()
    earlier = request(KEYS[:2])
    learned.dispatched(earlier, Decision(D0, P0), 0.0)
    learned.streaming(earlier, cached_tokens=None, now=0.0)
    learned.ended(earlier, output_tokens=None, now=0.0)
    failing = request()
    learned.dispatched(failing, Decision(D0, P0), 1.0)
    learned.failed(failing, Leg.PREFILL, 2.0)

    assert matches(learned, request()) == {"p0": 2, "d0": 2}


@pytest.mark.parametrize("prefill", [P0, None])
@pytest.mark.parametrize("stage", ["dispatched", "prefilled", "streaming"])
@pytest.mark.parametrize("failed", [True, False])
def test_whenever_a_request_ends_nothing_of_it_stays_booked(
    prefill: object, stage: str, failed: bool
) -> None:
    learned, served = memory(), request()
    learned.dispatched(served, Decision(D0, P0 if prefill is P0 else None), 0.0)
    if stage != "dispatched":
        learned.prefilled(served, prompt_tokens=2048, cached_tokens=0, now=1.0)
    if stage == "streaming":
        learned.streaming(served, cached_tokens=0, now=2.0)
    if failed:
        learned.failed(served, Leg.DECODE, 3.0)
    learned.ended(served, output_tokens=10, now=3.0)
    learned.ended(served, output_tokens=10, now=3.0)

    load = learned.load
    assert [(row.prompts, row.uncached_tokens) for row in load.prefill] == [(0, 0)] * len(load.prefill)
    assert [(row.sequences, row.reserved_tokens) for row in load.decode] == [(0, 0)] * len(load.decode)


def test_rates_are_learned_from_the_times_of_answers_alone() -> None:
    learned, now = memory(), 0.0
    for number in range(60):
        served = request([1000 * number + block for block in range(4)])
        learned.dispatched(served, Decision(D0, P0), now)
        now += 2048 * 3e-4
        learned.prefilled(served, prompt_tokens=2048, cached_tokens=0, now=now)
        learned.streaming(served, cached_tokens=None, now=now)
        learned.ended(served, output_tokens=1, now=now)

    assert learned.rates.prefill_fit("p0").predict((1.0, 2048, 2048**2 / 2)) == pytest.approx(
        2048 * 3e-4, rel=0.1
    )


def test_the_length_of_answers_is_learned_and_stays_below_the_clients_limit() -> None:
    learned, served = memory(), request()
    learned.dispatched(served, Decision(D0, P0), 0.0)
    learned.streaming(served, cached_tokens=None, now=1.0)
    learned.ended(served, output_tokens=40, now=2.0)

    assert learned.expected_output_tokens(request()) == 40
    assert learned.expected_output_tokens(RequestView("s", MODEL, 10, 7)) == 7


def test_an_answer_that_began_at_zero_on_the_clock_is_learned_from() -> None:
    learned, served = memory(), request()
    learned.dispatched(served, Decision(D0, P0), -1.0)
    learned.streaming(served, cached_tokens=None, now=0.0)
    learned.ended(served, output_tokens=40, now=2.0)

    assert learned.expected_output_tokens(request()) == 40
    assert learned.rates.decode_step_fit("d0").observations == 1


def test_a_restarted_worker_holds_nothing() -> None:
    learned, sent = memory(), request()
    learned.dispatched(sent, Decision(D0, P0), 0.0)
    learned.streaming(sent, cached_tokens=None, now=1.0)
    learned.restarted(P0)

    assert matches(learned, request()) == {"d0": 4}


def test_a_worker_that_loads_has_no_kv_pool_yet() -> None:
    learned = memory()
    learned.describe(P0, WorkerFacts(kv_tokens_capacity=10_000))
    learned.restarted(P1)

    assert learned.load.kv_tokens_capacity == 10_000


def test_an_answer_that_ends_after_its_workers_were_removed_teaches_nothing() -> None:
    learned, sent = memory(), request()
    learned.dispatched(sent, Decision(D0, P0), 0.0)
    learned.removed(P0)
    learned.removed(D0)
    learned.prefilled(sent, prompt_tokens=2048, cached_tokens=0, now=1.0)
    learned.streaming(sent, cached_tokens=None, now=2.0)
    learned.ended(sent, output_tokens=20, now=3.0)

    assert matches(learned, request()) == {}
    assert learned.load.find("p0") is learned.load.find("d0") is None
    assert learned.rates.links[0] == {}


def test_a_worker_that_changes_team_while_it_computes_leaves_no_count_behind() -> None:
    learned, sent = memory(), request()
    learned.describe(D0, WorkerFacts(lockstep_group="a"))
    learned.describe(D1, WorkerFacts(lockstep_group="a"))
    learned.dispatched(sent, Decision(D0, None), 0.0)
    learned.describe(D0, WorkerFacts(lockstep_group="b"))
    learned.streaming(sent, cached_tokens=0, now=1.0)
    learned.ended(sent, output_tokens=2, now=2.0)

    assert learned.load.decode_row("d1").team.computing == 0
    assert learned.load.decode_row("d0").team.computing == 0


def test_a_worker_whose_other_facts_change_stays_in_its_team() -> None:
    learned, sent = memory(), request()
    learned.describe(D0, WorkerFacts(kv_tokens_capacity=1000))
    team = learned.load.decode_row("d0").team
    learned.dispatched(sent, Decision(D0, None), 0.0)
    learned.describe(D0, WorkerFacts(kv_tokens_capacity=2000))

    assert learned.load.decode_row("d0").team is team


def test_prefixes_are_forgotten_once_the_caches_have_turned_over() -> None:
    learned = memory()
    for worker in (P0, D0):
        learned.describe(worker, WorkerFacts(kv_tokens_capacity=10_000))
    learned.dispatched(request(), Decision(D0, P0), 0.0)
    for number in range(1, 30):
        other = request([1000 * number + block for block in range(4)])
        learned.dispatched(other, Decision(D0, P0), float(number) / 100)
        learned.ended(other, output_tokens=None, now=float(number) / 100)

    assert matches(learned, request(), now=1.0) == {}


def test_a_prompt_is_looked_up_once_while_nothing_changes_in_the_index() -> None:
    learned, asked = memory(), request()
    first = learned.match(asked, 0.0)
    assert learned.match(asked, 0.0) is first

    learned.dispatched(request(), Decision(D0, P0), 0.0)
    assert matches(learned, asked) == {"p0": 4}
    assert matches(learned, asked, now=learned.index_config.max_age_s) == {}
