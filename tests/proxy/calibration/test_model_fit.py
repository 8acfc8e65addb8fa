"""The engine model that made the answers is found again in them; what they do not show is kept."""

from collections.abc import Sequence

import msgspec
import pytest

from baton.proxy.calibration.answer import Answer, Phases, WorkersReport
from baton.proxy.calibration.batches import DecodeSteps
from baton.proxy.calibration.check import check, spread_out
from baton.proxy.calibration.model_fit import CalibrationError, PoolSizes, calibrate
from baton.proxy.calibration.plan import CalibrationPlan
from baton.proxy.simulator.engine_model import DecodeModel, EngineModel, LinkModel, PrefillModel
from baton.proxy.simulator.simulation import FleetSize

TRUE = EngineModel(
    prefill=PrefillModel(step_base_s=0.004, token_s=5e-5, pair_s=8e-8, budget_tokens=512),
    decode=DecodeModel(
        step_base_s=0.002, row_s=3e-4, context_token_s=4e-7, experts_s=0.003, expert_share=0.25
    ),
    link=LinkModel(base_s=0.0007, bytes_per_s=2e9, kv_bytes_per_token=1280.0),
    leg_s=0.003,
)
BASE = EngineModel(
    prefill=PrefillModel(budget_tokens=512), decode=DecodeModel(expert_share=0.25, lockstep=False)
)


def lone_answer(prompt: int, *, told: bool = True) -> Answer:
    model, link, kv_bytes = TRUE.prefill, TRUE.link, 1280 * prompt
    steps = -(-prompt // model.budget_tokens)
    prefill_s = steps * model.step_base_s + model.token_s * prompt + model.pair_s * prompt**2 / 2
    transfer_s = link.base_s + kv_bytes / link.bytes_per_s
    phases = Phases(queue_s=0.001, prefill_s=prefill_s, transfer_s=transfer_s, first_step_s=0.005)
    report = WorkersReport(prefill_worker="p", decode_worker="d", kv_bytes=kv_bytes, phases=phases)
    ttft_s = 2 * TRUE.leg_s + 0.001 + prefill_s + transfer_s + 0.005
    first = 10.0 + (ttft_s if told else prefill_s)
    return Answer(
        sent_at=10.0,
        token_times=(first, first + 0.01),
        prompt_tokens=prompt,
        output_tokens=2,
        report=report if told else None,
    )


def lone_answers(*, told: bool = True) -> list[Answer]:
    return [lone_answer(prompt, told=told) for prompt in (16, 64, 256, 512, 1024, 2048)]


def batches() -> list[DecodeSteps]:
    model = TRUE.decode
    return [
        DecodeSteps(
            rows=rows,
            prompt_tokens=rows * prompt,
            context_tokens=rows * prompt,
            step_s=model.step_base_s
            + model.row_s * model.padded(rows)
            + model.experts_s * model.experts_used(rows)
            + model.context_token_s * rows * prompt,
        )
        for rows in (1, 2, 4, 8, 16)
        for prompt in (256, 1024)
    ]


def fitted(lone: Sequence[Answer], steps: Sequence[DecodeSteps]) -> EngineModel:
    pools = PoolSizes(prefill=5000, decode=None)
    return calibrate(lone, steps, base=BASE, pools=pools).model


def test_every_rate_that_shows_is_found_again() -> None:
    model = fitted(lone_answers(), batches())

    for part in ("prefill", "decode", "link"):
        found, true = (msgspec.to_builtins(getattr(each, part)) for each in (model, TRUE))
        for rate in set(found) & {"step_base_s", "token_s", "pair_s", "row_s", "context_token_s",
                                  "experts_s", "base_s", "bytes_per_s", "kv_bytes_per_token"}:  # fmt: skip
            assert found[rate] == pytest.approx(true[rate], rel=0.01), (part, rate)
    assert model.leg_s == pytest.approx(TRUE.leg_s)


def test_what_does_not_show_is_kept_and_pools_are_taken_where_told() -> None:
    model = fitted(lone_answers(), batches())

    assert model.prefill.budget_tokens == 512
    assert model.decode.lockstep is False
    assert (model.prefill.kv_tokens, model.decode.kv_tokens) == (5000, BASE.decode.kv_tokens)


def test_without_phases_the_time_to_the_first_token_is_prefill_and_links_are_kept() -> None:
    calibration = calibrate(lone_answers(told=False), batches(), base=BASE, pools=PoolSizes())

    assert calibration.model.prefill.pair_s == pytest.approx(TRUE.prefill.pair_s, rel=0.01)
    assert calibration.model.link == BASE.link
    assert calibration.model.leg_s == 0.0
    assert not calibration.phases_told


def test_too_little_to_fit_is_said() -> None:
    with pytest.raises(CalibrationError, match="2 different lengths"):
        fitted([lone_answer(16), lone_answer(64)], batches())
    with pytest.raises(CalibrationError, match=r"batches of \[1\] only"):
        fitted(lone_answers(), batches()[:1])


def test_an_answer_whose_prompt_was_computed_twice_is_left_out() -> None:
    odd = lone_answer(300)
    assert odd.report is not None
    slow = msgspec.structs.replace(odd.report.phases, prefill_s=9.0)
    twice = msgspec.structs.replace(odd.report, recomputed=True, phases=slow)
    model = fitted([*lone_answers(), msgspec.structs.replace(odd, report=twice)], batches())

    assert model.prefill.token_s == pytest.approx(TRUE.prefill.token_s, rel=0.01)


def test_a_check_of_what_the_model_itself_says_finds_no_error() -> None:
    step_s = TRUE.decode.step_base_s + TRUE.decode.row_s + TRUE.decode.experts_s * 0.25
    answers = []
    for number, prompt in enumerate((100, 400)):
        lone = lone_answer(prompt)
        assert lone.report is not None
        at_once = msgspec.structs.replace(lone.report.phases, queue_s=0.0)
        first = lone.ttft_s - 0.001 - 0.005 + step_s + prompt * TRUE.decode.context_token_s
        pace = step_s + (prompt + 6) * TRUE.decode.context_token_s
        times = tuple(number * 5.0 + first + pace * token for token in range(10))
        answers.append(
            msgspec.structs.replace(
                lone,
                sent_at=number * 5.0,
                token_times=times,
                output_tokens=10,
                report=msgspec.structs.replace(lone.report, phases=at_once),
            )
        )
    for each in check(answers, TRUE, FleetSize(1, 1)):
        assert each.request_error < 0.01, each
        assert each.simulated.p50 == pytest.approx(each.measured.p50, rel=0.01)


def test_the_checking_load_keeps_prefill_as_busy_as_asked() -> None:
    asks = CalibrationPlan(longest_prompt=512).random_load(2000, seed=3)
    timed = spread_out(asks, TRUE, 2, busy=0.5, seed=3)
    work_s = sum(
        TRUE.prefill.step_base_s + TRUE.prefill.token_s * n + TRUE.prefill.pair_s * n**2 / 2
        for n in (len(ask.prompt) for ask in asks)
    )

    assert work_s / (2 * timed[-1][0]) == pytest.approx(0.5, rel=0.1)
