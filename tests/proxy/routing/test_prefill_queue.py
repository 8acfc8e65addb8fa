"""A queue tells how long a new prompt waits, whatever order its prompts are answered in."""

import pytest

from baton.proxy.routing.prefill_queue import PrefillQueue


def queue(*seconds: float, now: float = 0.0) -> PrefillQueue:
    made = PrefillQueue()
    for prompt, expected_s in enumerate(seconds):
        made.add(prompt, expected_s, 100 * expected_s, now)
    return made


def test_a_new_prompt_waits_for_all_that_are_there() -> None:
    assert queue(2.0, 3.0, now=10.0).clear_at == 15.0


def test_an_answer_that_comes_early_shortens_the_wait() -> None:
    waiting = queue(2.0, 3.0)

    assert waiting.remove(0, now=0.5) == 0.5
    assert waiting.clear_at == 3.5


def test_what_is_behind_a_late_first_prompt_is_still_to_come() -> None:
    waiting = queue(2.0, 3.0)

    assert waiting.clear_at - 4.5 < waiting.behind_first_s == 3.0


def test_an_answer_out_of_turn_takes_its_work_along_and_leaves_the_first_under_way() -> None:
    waiting = queue(2.0, 3.0, 4.0)

    assert waiting.remove(1, now=1.0) is None
    assert waiting.clear_at == 6.0
    assert waiting.remove(0, now=2.0) == 2.0


def test_an_unknown_prompt_changes_nothing() -> None:
    waiting = queue(2.0)

    assert waiting.remove(7, now=1.0) is None
    assert (waiting.prompts, waiting.clear_at) == (1, 2.0)


def test_an_empty_queue_is_exactly_empty_and_starts_anew() -> None:
    waiting = queue(0.1, 0.2, 0.7)
    for prompt in range(3):
        waiting.remove(prompt, now=1.0)

    assert (waiting.clear_at, waiting.uncached_tokens, waiting.behind_first_s) == (1.0, 0.0, 0.0)
    waiting.add(9, 1.0, 50.0, now=8.0)
    assert waiting.clear_at == pytest.approx(9.0)
