"""The simulated fleet keeps its books, takes the time its model says, and repeats itself exactly."""

from collections.abc import Sequence

import msgspec
import pytest

from baton.proxy.routing.fleet import Fleet
from baton.proxy.routing.policy import Decision
from baton.proxy.routing.policy_file import DEFAULTS, build_policy, memory_for
from baton.proxy.routing.view import RequestView
from baton.proxy.simulator.engine_model import DecodeModel, EngineModel
from baton.proxy.simulator.job import Job
from baton.proxy.simulator.outcome import Objective, judge, tpot_s, ttft_s
from baton.proxy.simulator.sessions import SessionLoad, generate_sessions
from baton.proxy.simulator.simulation import FleetSize, Simulation
from baton.proxy.simulator.trace import TraceRequest

MODEL = EngineModel(token_estimate_error=0.0)
SESSIONS = generate_sessions(SessionLoad(sessions=60, sessions_per_s=4.0, think_s=3.0), seed=2)


def simulate(
    policy: str, trace: Sequence[TraceRequest], size: FleetSize, model: EngineModel = MODEL
) -> Simulation:
    config = DEFAULTS[policy]
    memory = memory_for(config, now=0.0)
    simulation = Simulation(size, model, build_policy(config, memory), memory, seed=7)
    simulation.run(trace)
    return simulation


def alone(prompt: int, output: int, model: EngineModel = MODEL) -> Job:
    trace = [TraceRequest(at_s=1.0, prompt_tokens=prompt, output_tokens=output, keys=())]
    return simulate("round_robin", trace, FleetSize(1, 1), model).jobs[0]


def test_a_lone_request_takes_exactly_what_the_model_says() -> None:
    job, prefill, decode, link = alone(10_000, 100), MODEL.prefill, MODEL.decode, MODEL.link
    prefill_s = 2 * prefill.step_base_s + prefill.token_s * 10_000 + prefill.pair_s * 10_000**2 / 2
    transfer_s = link.base_s + 10_000 * link.kv_bytes_per_token / link.bytes_per_s
    steps_s = [
        decode.step_base_s + decode.row_s + decode.context_token_s * (10_000 + step) for step in range(100)
    ]

    assert ttft_s(job) == pytest.approx(2 * MODEL.leg_s + prefill_s + transfer_s + steps_s[0])
    assert tpot_s(job) == pytest.approx(sum(steps_s[1:]) / 99)


class OnDecode:
    """Leaves every prompt to the decode worker."""

    def decide(self, request: RequestView, fleet: Fleet, now: float) -> Decision:
        return Decision(fleet.pool(request.model).decode[0], None)


def test_no_prompt_is_computed_by_a_step_that_began_without_it() -> None:
    trace = [
        TraceRequest(at_s=number / 37, prompt_tokens=400, output_tokens=5, keys=()) for number in range(200)
    ]
    # Room for two at a time: most are taken in when another ends, which is when a step ends.
    tight = msgspec.structs.replace(MODEL, decode=DecodeModel(kv_tokens=1024))
    memory = memory_for(DEFAULTS["pair_cost"], now=0.0)
    jobs = Simulation(FleetSize(1, 1), tight, OnDecode(), memory, seed=7).run(trace)
    model = tight.decode
    least_s = model.step_base_s + model.prefill_token_s * 400 + model.prefill_pair_s * 400**2 / 2

    for job in jobs:
        assert job.prefilled_at - job.taken_up_at >= least_s - 1e-9


def test_a_second_turn_computes_only_what_is_new() -> None:
    keys = tuple(range(20))
    turns = [
        TraceRequest(at_s=0.0, prompt_tokens=20 * 512, output_tokens=1, keys=keys),
        TraceRequest(at_s=60.0, prompt_tokens=22 * 512, output_tokens=1, keys=(*keys, 98, 99)),
    ]
    simulation = simulate("round_robin", turns, FleetSize(1, 1))

    assert simulation.jobs[1].cached_tokens == 20 * 512
    assert simulation.jobs[1].kv_bytes == pytest.approx(2 * 512 * MODEL.link.kv_bytes_per_token)


def test_in_lockstep_a_long_neighbour_slows_everybody() -> None:
    trace = [
        TraceRequest(at_s=0.0, prompt_tokens=50_000, output_tokens=3000, keys=()),
        TraceRequest(at_s=20.0, prompt_tokens=500, output_tokens=100, keys=()),
    ]

    def pace(lockstep: bool) -> float:
        model = msgspec.structs.replace(MODEL, decode=DecodeModel(lockstep=lockstep))
        return tpot_s(simulate("round_robin", trace, FleetSize(2, 2), model).jobs[1])

    assert pace(True) > pace(False) + 40_000 * MODEL.decode.context_token_s


@pytest.mark.parametrize("policy", ["pair_cost", "cache_aware", "scorers"])
def test_every_request_ends_and_nothing_stays_booked_anywhere(policy: str) -> None:
    simulation = simulate(policy, SESSIONS, FleetSize(2, 2))

    assert len(simulation.jobs) == len(SESSIONS)
    for job in simulation.jobs:
        assert job.dispatched_at <= job.taken_up_at < job.prefilled_at <= job.arrived_at < job.first_token_at
        assert job.first_token_at <= job.finished_at
    for worker in simulation.fleet.workers.values():
        assert worker.prefill_tokens == worker.decode_tokens == 0
        assert worker.prefill_requests == worker.decode_requests == 0
    for sim in (*simulation.prefill.values(), *simulation.decode.values()):
        assert sim.cache.in_use == 0
    decoded = sum(sim.decoded_tokens for sim in simulation.decode.values())
    assert decoded == sum(request.output_tokens for request in SESSIONS)
    computed = sum(sim.computed_tokens for sim in simulation.prefill.values())
    computed += sum(sim.computed_tokens for sim in simulation.decode.values())
    assert computed == sum(job.prompt_tokens - job.cached_tokens for job in simulation.jobs)


def test_kv_pools_that_are_nearly_full_delay_but_lose_nothing() -> None:
    tight = EngineModel(
        prefill=msgspec.structs.replace(MODEL.prefill, kv_tokens=40_000),
        decode=msgspec.structs.replace(MODEL.decode, kv_tokens=40_000),
    )
    simulation = simulate("least_loaded", SESSIONS, FleetSize(1, 1), tight)

    assert len([job for job in simulation.jobs if job.finished_at]) == len(SESSIONS)


def test_the_same_seed_gives_the_same_figures() -> None:
    first, second = (
        judge("x", simulate("pair_cost", SESSIONS, FleetSize(3, 2)), Objective()) for _ in range(2)
    )

    assert first == second


def test_affinity_saves_work_that_round_robin_repeats() -> None:
    hits = {
        policy: judge(policy, simulate(policy, SESSIONS, FleetSize(4, 2)), Objective()).hit_rate
        for policy in ("round_robin", "pair_cost")
    }

    assert hits["pair_cost"] > hits["round_robin"] + 0.1
