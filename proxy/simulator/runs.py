"""Several simulations of one trace: policies beside each other, or splits of a fleet of a given size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..routing.policy_config import PolicyConfig
from ..routing.policy_file import build_policy, memory_for
from .engine_model import EngineModel
from .outcome import Objective, Outcome, judge
from .simulation import FleetSize, Simulation
from .trace import TraceRequest

Progress = Callable[[str, int, int], None]
"""Told the run's name, requests finished and requests in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What all runs have in common."""

    trace: Sequence[TraceRequest]
    model: EngineModel
    objective: Objective
    seed: int = 0


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy as it is called in tables."""

    name: str
    config: PolicyConfig


def run_policy(scene: Scene, policy: NamedPolicy, size: FleetSize, progress: Progress) -> Outcome:
    """Serve the trace under one policy, from a cold start."""
    name = f"{policy.name} {size.prefill}:{size.decode}"
    memory = memory_for(policy.config, now=0.0)
    simulation = Simulation(
        size,
        scene.model,
        build_policy(policy.config, memory),
        memory,
        seed=scene.seed,
        progress=lambda done, total: progress(name, done, total),
    )
    simulation.run(scene.trace)
    return judge(policy.name, simulation, scene.objective)


def compare(
    scene: Scene, policies: Sequence[NamedPolicy], size: FleetSize, progress: Progress
) -> list[Outcome]:
    """Serve the trace under each policy."""
    return [run_policy(scene, policy, size, progress) for policy in policies]


def sweep(
    scene: Scene, policy: NamedPolicy, workers: int, progress: Progress
) -> list[tuple[FleetSize, Outcome]]:
    """Serve the trace with every split of `workers` into prefill and decode, the best goodput first."""
    sizes = [FleetSize(prefill, workers - prefill) for prefill in range(1, workers)]
    runs = [(size, run_policy(scene, policy, size, progress)) for size in sizes]
    return sorted(runs, key=lambda run: (-run[1].goodput, run[1].ttft_s.p90))
