"""An engine model out of answers, and how far off it is. No I/O.

    prefill     the workers' own timing of each lone prompt; the time to the first token where they tell none
    decode      the time between tokens while a batch does not change, as the client sees it
    transfer    the decode worker's own timing
    leg         what is left of the time to the first token, by leg

What cannot be seen from outside is kept from the model that was given: token budgets, captured batch sizes,
lockstep, the share of experts that a token uses, and sizes of pools that no worker tells.
"""

from collections.abc import Sequence
from statistics import median

import msgspec

from ..simulator.engine_model import DecodeModel, EngineModel, LinkModel, PrefillModel
from .answer import Answer, Phases
from .batches import DecodeSteps, typical
from .fit import LinearFit, Sample, fit_linear

FASTEST_LINK = 1e12
"""Bytes a second, where more bytes took no longer."""


class CalibrationError(ValueError):
    """A calibration that cannot be made or used; the message says why."""


class PoolSizes(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of KV that a worker has room for, where one tells."""

    prefill: int | None = None
    decode: int | None = None


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """The model, and the fits it is made of."""

    model: EngineModel
    prefill: LinearFit
    decode: LinearFit
    transfer: LinearFit | None
    """None: no KV was seen to travel."""
    phases_told: bool


def calibrate(
    lone: Sequence[Answer], steps: Sequence[DecodeSteps], *, base: EngineModel, pools: PoolSizes
) -> Calibration:
    """Fit an engine model; what was not measured stays as in `base`. Raises `CalibrationError`."""
    used = [answer for answer in lone if answer.report is None or not answer.report.recomputed]
    prefill = _fit_prefill(used, base.prefill)
    decode = _fit_decode(steps, base.decode)
    transfer = _fit_transfer(used)
    told = any(_phases(answer) is not None for answer in used)
    model = EngineModel(
        prefill=_prefill_model(prefill, base.prefill, pools),
        decode=_decode_model(decode, prefill, base.decode, pools),
        link=_link_model(transfer, used, base.link),
        block_tokens=base.block_tokens,
        # Without phases all that is lost around the engine is in the prefill's own base.
        leg_s=_leg_s(used) if told else 0.0,
        token_estimate_error=base.token_estimate_error,
        output_tokens_guess=base.output_tokens_guess,
    )
    return Calibration(model=model, prefill=prefill, decode=decode, transfer=transfer, phases_told=told)


# --- fits


def _fit_prefill(answers: Sequence[Answer], base: PrefillModel) -> LinearFit:
    samples = []
    for answer in answers:
        phases = _phases(answer)
        seconds = answer.ttft_s if phases is None else phases.prefill_s
        if seconds is not None and seconds > 0:
            samples.append(Sample(features=_prefill_features(answer, base), seconds=seconds))
    lengths = {sample.features for sample in samples}
    if len(lengths) < 3:
        raise CalibrationError(f"prompts of only {len(lengths)} different lengths were timed, 3 are needed")
    return fit_linear(samples)


def _prefill_features(answer: Answer, base: PrefillModel) -> tuple[float, float, float]:
    cached = answer.report.cached_tokens if answer.report is not None else 0
    new = max(answer.prompt_tokens - cached, 1)
    return (-(-new // base.budget_tokens), new, new * (cached + new / 2))


def _fit_decode(steps: Sequence[DecodeSteps], base: DecodeModel) -> LinearFit:
    sizes = {batch.rows for batch in steps}
    if len(sizes) < 2:
        raise CalibrationError(
            f"decode was timed in batches of {sorted(sizes)} only: streams that were sent together did not "
            "decode together; ask for longer answers or shorter prompts"
        )
    return fit_linear(
        [
            Sample(
                features=(1.0, base.padded(batch.rows), batch.context_tokens, base.experts_used(batch.rows)),
                seconds=batch.step_s,
            )
            for batch in typical(steps)
        ]
    )


def _fit_transfer(answers: Sequence[Answer]) -> LinearFit | None:
    samples = [
        Sample(features=(1.0, float(answer.report.kv_bytes)), seconds=phases.transfer_s)
        for answer in answers
        if answer.report is not None
        and answer.report.kv_bytes > 0
        and (phases := _phases(answer)) is not None
        and phases.transfer_s
    ]
    return fit_linear(samples) if len({sample.features for sample in samples}) > 1 else None


def _leg_s(answers: Sequence[Answer]) -> float:
    lost = []
    for answer in answers:
        phases = _phases(answer)
        if phases is not None and answer.report is not None:
            parts = (phases.queue_s, phases.prefill_s, phases.transfer_s, phases.first_step_s)
            split = answer.report.prefill_worker not in (None, answer.report.decode_worker)
            known = sum(part for part in parts if part is not None)
            lost.append((answer.ttft_s - known) / (2 if split else 1))
    return max(median(lost), 0.0)


def _phases(answer: Answer) -> Phases | None:
    if answer.report is None or answer.report.phases.prefill_s is None:
        return None
    return answer.report.phases


# --- models


def _prefill_model(fit: LinearFit, base: PrefillModel, pools: PoolSizes) -> PrefillModel:
    step_base_s, token_s, pair_s = fit.coefficients
    return PrefillModel(
        step_base_s=step_base_s,
        token_s=token_s,
        pair_s=pair_s,
        budget_tokens=base.budget_tokens,
        kv_tokens=pools.prefill or base.kv_tokens,
    )


def _decode_model(fit: LinearFit, prefill: LinearFit, base: DecodeModel, pools: PoolSizes) -> DecodeModel:
    step_base_s, row_s, context_token_s, experts_s = fit.coefficients
    _, token_s, pair_s = prefill.coefficients
    return DecodeModel(
        step_base_s=step_base_s,
        row_s=row_s,
        experts_s=experts_s,
        expert_share=base.expert_share,
        context_token_s=context_token_s,
        captured_batch_sizes=base.captured_batch_sizes,
        kv_tokens=pools.decode or base.kv_tokens,
        lockstep=base.lockstep,
        prefill_token_s=token_s,
        prefill_pair_s=pair_s,
        prefill_budget_tokens=base.prefill_budget_tokens,
    )


def _link_model(fit: LinearFit | None, answers: Sequence[Answer], base: LinkModel) -> LinkModel:
    if fit is None:
        return base
    base_s, byte_s = fit.coefficients
    shipped = [
        (answer.report.kv_bytes, answer.prompt_tokens)
        for answer in answers
        if answer.report is not None and answer.report.kv_bytes > 0
    ]
    return LinkModel(
        base_s=base_s,
        bytes_per_s=min(1.0 / byte_s, FASTEST_LINK) if byte_s else FASTEST_LINK,
        kv_bytes_per_token=sum(kv_bytes for kv_bytes, _ in shipped) / sum(tokens for _, tokens in shipped),
    )
