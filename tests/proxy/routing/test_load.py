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
    row = loads.row("d")
    for _ in range(2):
        loads.sequence_added("d", context_tokens=0, reserved_tokens=0)

    assert loads.decode.step_s[row] == pytest.approx(STEP.base_s + 2 * STEP.per_row_s)
    assert loads.decode.step_with_one_more_s[row] == pytest.approx(STEP.base_s + 8 * STEP.per_row_s)


def test_beyond_the_largest_captured_size_nothing_is_padded() -> None:
    loads = load()
    loads.describe("d", WorkerFacts(captured_batch_sizes=(1, 2)))
    for _ in range(5):
        loads.sequence_added("d", context_tokens=10, reserved_tokens=20)

    assert loads.step_features("d") == (5, 50)


def test_in_lockstep_the_step_is_the_slowest_ones() -> None:
    loads = load()
    for name in ("d0", "d1"):
        loads.describe(name, WorkerFacts(lockstep_group="fleet"))
    loads.describe("d2", WorkerFacts())
    loads.sequence_added("d1", context_tokens=1000, reserved_tokens=1000)

    assert loads.step_features("d0") == (1, 1000)
    assert loads.step_features("d2") == (0, 0)


def test_what_was_added_and_removed_leaves_nothing() -> None:
    loads = load()
    row = loads.row("d")
    for tokens in (0.1, 0.2, 0.3):
        loads.sequence_added("d", context_tokens=tokens, reserved_tokens=tokens)
    for tokens in (0.3, 0.1, 0.2):
        loads.sequence_removed("d", context_tokens=tokens, reserved_tokens=tokens)

    assert (loads.decode.rows[row], loads.decode.reserved_tokens[row], loads.decode.step_s[row]) == (0, 0, 0)


def test_idle_workers_are_ready_first_the_fastest_of_them_before_all() -> None:
    loads = Load(rates := Rates(RateConfig()))
    for name, per_token_s in (("slow", 1e-3), ("fast", 1e-5), ("busy", 1e-5)):
        loads.row(name)
        for _ in range(30):
            rates.prefilled(name, uncached_tokens=1000, seconds=1000 * per_token_s)
        loads.refresh(name, 1.0)
    loads.prompt_sent("busy", 1, seconds=1.0, uncached_tokens=1.0, now=5.0)

    ready = loads.prefill.ready
    assert ready[loads.row("fast")] < ready[loads.row("slow")] < ready[loads.row("busy")] == 6.0
