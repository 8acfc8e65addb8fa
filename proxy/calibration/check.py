"""A small load that was not fitted to: what was measured beside what the fit predicts of it. No I/O."""

import random
from collections.abc import Sequence
from statistics import median

import msgspec

from ..routing.policy_file import DEFAULTS, build_policy, memory_for
from ..simulator.engine_model import EngineModel
from ..simulator.outcome import Percentiles, percentiles, tpot_s, ttft_s
from ..simulator.simulation import FleetSize, Simulation
from ..simulator.trace import TraceRequest
from .answer import Answer
from .plan import Ask


class Predicted(msgspec.Struct, frozen=True, kw_only=True):
    """One measure of a load: percentiles as measured and as simulated, and the error of single requests."""

    name: str
    measured: Percentiles
    simulated: Percentiles
    request_error: float
    """Median over the requests of |simulated / measured - 1|."""


def spread_out(
    asks: Sequence[Ask], model: EngineModel, workers: int, *, busy: float, seed: int
) -> list[tuple[float, Ask]]:
    """Return each request with its second: Poisson arrivals, `workers` prefill workers so `busy` (0 to 1)."""
    lot = random.Random(f"arrivals {seed}")  # noqa: S311 (a lot, no secret)
    prefill = model.prefill
    work_s = sum(
        prefill.step_base_s + prefill.token_s * len(ask.prompt) + prefill.pair_s * len(ask.prompt) ** 2 / 2
        for ask in asks
    ) / len(asks)
    at_s, timed = 0.0, []
    for ask in asks:
        timed.append((at_s, ask))
        at_s += lot.expovariate(busy * workers / work_s)
    return timed


def check(answers: Sequence[Answer], model: EngineModel, size: FleetSize) -> list[Predicted]:
    """Simulate what was measured, with the same arrivals; return TTFT, TPOT and prefill, in seconds."""
    ordered = sorted(answers, key=lambda answer: answer.sent_at)
    memory = memory_for(DEFAULTS["round_robin"], now=0.0)
    policy = build_policy(DEFAULTS["round_robin"], memory)
    simulation = Simulation(size, model, policy, memory)
    jobs = simulation.run(
        [
            TraceRequest(
                at_s=answer.sent_at,
                prompt_tokens=answer.prompt_tokens,
                output_tokens=answer.output_tokens,
                keys=(),
            )
            for answer in ordered
        ]
    )
    predicted = [
        _predicted("TTFT", [answer.ttft_s for answer in ordered], [ttft_s(job) for job in jobs]),
        _predicted("TPOT", [answer.tpot_s for answer in ordered], [tpot_s(job) for job in jobs]),
    ]
    told = [
        (seconds, job) for answer, job in zip(ordered, jobs, strict=True) if (seconds := _prefill_s(answer))
    ]
    if told:
        simulated = [job.prefilled_at - job.dispatched_at - model.leg_s for _, job in told]
        predicted.append(_predicted("queue and prefill", [seconds for seconds, _ in told], simulated))
    return predicted


def _prefill_s(answer: Answer) -> float | None:
    phases = answer.report.phases if answer.report is not None else None
    if phases is None or phases.prefill_s is None:
        return None
    return phases.prefill_s + (phases.queue_s or 0.0)


def _predicted(name: str, measured: Sequence[float], simulated: Sequence[float]) -> Predicted:
    return Predicted(
        name=name,
        measured=percentiles(measured),
        simulated=percentiles(simulated),
        request_error=median(
            abs(guess / real - 1.0) for real, guess in zip(measured, simulated, strict=True) if real
        ),
    )
