"""What is asked spans the lengths and batches a fit needs, and repeats by seed."""

from baton.proxy.calibration.plan import SHORTEST_PROMPT, CalibrationPlan

PLAN = CalibrationPlan(longest_prompt=1000, repeats=2, most_streams=6)


def test_lone_prompts_span_the_lengths_and_share_no_prefix() -> None:
    asks = PLAN.lone_prompts()
    lengths = [len(ask.prompt) for ask in asks]

    assert len(set(lengths)) == len(lengths) > 40
    assert SHORTEST_PROMPT <= min(lengths) < 20
    assert 900 < max(lengths) <= 1000
    assert lengths != sorted(lengths)
    assert len({ask.prompt[:SHORTEST_PROMPT] for ask in asks}) == len(asks)
    assert asks == PLAN.lone_prompts()


def test_batches_halve_and_ask_for_different_prompts_at_once() -> None:
    batches = PLAN.batches()

    assert sorted({len(batch) for batch in batches}) == [1, 3, 6]
    assert {len(ask.prompt) for batch in batches for ask in batch} == {1000, 250}
    assert all(len({ask.prompt for ask in batch}) == len(batch) for batch in batches)
    assert len({ask.prompt for batch in batches for ask in batch}) == 12


def test_the_checking_load_asks_for_nothing_that_was_asked_before() -> None:
    asked = {ask.prompt for ask in PLAN.lone_prompts()}
    load = PLAN.random_load(20, seed=0)

    assert not asked & {ask.prompt for ask in load}
    assert load == PLAN.random_load(20, seed=0) != PLAN.random_load(20, seed=1)
