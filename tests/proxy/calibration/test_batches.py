"""Steps are read off the time in which all streams of a batch decode, worker by worker."""

import pytest

from baton.proxy.calibration.answer import Answer, WorkersReport
from baton.proxy.calibration.batches import decode_steps, typical


def stream(first: float, pace: float, tokens: int, worker: str | None = None) -> Answer:
    return Answer(
        sent_at=0.0,
        token_times=tuple(first + pace * token for token in range(tokens)),
        prompt_tokens=100,
        output_tokens=tokens,
        report=WorkersReport(decode_worker=worker) if worker else None,
    )


def test_the_step_is_that_of_the_common_time_only() -> None:
    early = Answer(
        sent_at=0.0,
        token_times=(*(token * 0.01 for token in range(10)), *(0.2 + token * 0.02 for token in range(40))),
        prompt_tokens=100,
        output_tokens=50,
    )
    (steps,) = decode_steps([early, stream(0.2, 0.02, 40)])

    assert (steps.rows, steps.prompt_tokens) == (2, 200)
    assert steps.step_s == pytest.approx(0.02)
    assert steps.context_tokens == pytest.approx(200 + 10 + 40)


def test_each_worker_has_a_batch_of_its_own() -> None:
    found = decode_steps([stream(0.0, 0.01, 20, "a"), stream(0.0, 0.01, 20, "a"), stream(0.0, 0.03, 20, "b")])

    assert sorted((each.rows, round(each.step_s, 6)) for each in found) == [(1, 0.03), (2, 0.01)]


def test_streams_that_hardly_met_say_nothing() -> None:
    assert decode_steps([stream(0.0, 0.01, 20), stream(0.17, 0.01, 20)]) == []


def test_of_repeated_batches_the_median_counts() -> None:
    repeated = [steps for pace in (0.01, 0.5, 0.02) for steps in decode_steps([stream(0.0, pace, 20)])]

    assert [each.step_s for each in typical(repeated)] == pytest.approx([0.02])
