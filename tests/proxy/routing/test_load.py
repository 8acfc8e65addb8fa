"""Loads are what the dispatches made them: queues, steps that jump at captured sizes, lockstep."""

import pytest

from baton.proxy.routing.load import Load, WorkerFacts
from baton.proxy.routing.rates import RateConfig, Rates

STEP = RateConfig().decode_step


def load() -> Load:
    return Load(Rates(RateConfig()))


def test_the_next_sequence_costs_a_whole_captured_size() -> None:
    loads = load()
    loads.describe("d", WorkerFacts(captured_batch_sizes=(1, 2, 8)))
    row = loads.decode_row("d")
    for _ in range(2):
        loads.sequence_added(row, 0, 0)

    assert row.step_s == pytest.approx(STEP.base_s + 2 * STEP.per_row_s)
    assert row.step_with_one_more_s == pytest.approx(STEP.base_s + 8 * STEP.per_row_s)


def test_beyond_the_largest_captured_size_nothing_is_padded() -> None:
    loads = load()
    loads.describe("d", WorkerFacts(captured_batch_sizes=(1, 2)))
    for _ in range(5):
        loads.sequence_added(loads.decode_row("d"), context_tokens=10, reserved_tokens=20)

    assert loads.decode_row("d").step_features() == (5, 50)


def test_in_lockstep_the_step_is_the_slowest_ones() -> None:
    loads = load()
    for name in ("d0", "d1"):
        loads.describe(name, WorkerFacts(lockstep_group="fleet"))
    loads.describe("d2", WorkerFacts())
    loads.sequence_added(loads.decode_row("d1"), context_tokens=1000, reserved_tokens=1000)

    assert loads.decode_row("d0").step_features() == (1, 1000)
    assert loads.decode_row("d2").step_features() == (0, 0)


def test_a_removed_worker_leaves_its_team_its_capacity_and_its_number() -> None:
    loads = load()
    for name in ("d0", "d1"):
        loads.describe(name, WorkerFacts(kv_tokens_capacity=1000, lockstep_group="fleet"))
    loads.sequence_added(loads.decode_row("d0"), context_tokens=10, reserved_tokens=10)
    loads.forget("d0")
    loads.describe("d2", WorkerFacts(kv_tokens_capacity=500))

    assert loads.decode_row("d1").team.members == [loads.decode_row("d1")]
    assert loads.kv_tokens_capacity == 1500
    assert len(loads.decode) == len(loads.prefill) == 2
    assert loads.decode_row("d2").sequences == 0


def test_what_ends_on_a_removed_worker_does_not_touch_who_has_its_number_now() -> None:
    loads = load()
    gone = loads.decode_row("gone")
    loads.sequence_added(gone, context_tokens=10, reserved_tokens=10)
    loads.forget("gone")
    numbers = [loads.number("here"), loads.number("there")]
    loads.sequence_added(loads.decode_row("here"), context_tokens=10, reserved_tokens=10)
    order = loads.decode_order(numbers)
    loads.sequence_removed(gone, context_tokens=10, reserved_tokens=10)

    assert loads.decode_row("here").sequences == 1
    assert order.first(2) == [1, 0]
    assert not loads.holds(gone)


def test_no_more_is_kept_after_many_workers_than_after_the_first() -> None:
    loads = load()
    for number in range(50):
        loads.describe(f"d{number}", WorkerFacts(kv_tokens_capacity=10, lockstep_group=f"group{number}"))
        loads.forget(f"d{number}")

    assert len(loads.decode) == 1
    assert loads.kv_tokens_capacity == 0


def test_what_was_added_and_removed_leaves_nothing() -> None:
    loads = load()
    row = loads.decode_row("d")
    for tokens in (0.1, 0.2, 0.3):
        loads.sequence_added(row, context_tokens=tokens, reserved_tokens=tokens)
    for tokens in (0.3, 0.1, 0.2):
        loads.sequence_removed(row, context_tokens=tokens, reserved_tokens=tokens)

    assert (row.sequences, row.reserved_tokens, row.step_s) == (0, 0, 0)


def test_idle_workers_are_ready_first_the_fastest_of_them_before_all() -> None:
    loads = Load(rates := Rates(RateConfig()))
    for name, per_token_s in (("slow", 1e-3), ("fast", 1e-5), ("busy", 1e-5)):
        number = loads.number(name)
        for _ in range(30):
            rates.prefilled_several(
                name, prompts=1, uncached_tokens=1000, pairs=500_000, seconds=1000 * per_token_s, now=0.0
            )
        loads.learned(number)
    loads.prompt_sent(loads.prefill_row("busy"), 1, seconds=1.0, uncached_tokens=1.0, now=5.0)

    ready = {name: loads.prefill_row(name).ready for name in ("slow", "fast", "busy")}
    assert ready["fast"] < ready["slow"] < ready["busy"] == 6.0
