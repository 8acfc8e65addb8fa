"""CPU of one routing decision: hash the prompt, look it up, price every worker, choose. Target: 300 us.

    make bench-routing          10, 100 and 1,000 workers, half of them prefill, and a prompt of 64 KiB

Each decision is for another prompt of a fleet that is warm and busy: prompts share a system prompt that all
workers hold, conversations that a few hold, and rates are learned. CPU time of this thread, without garbage
collection of other people's making; the figure is the median over decisions at 1,000 workers.
"""

import argparse
import gc
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baton.bench.table import percentile, render
from baton.proxy.routing.fleet import Fleet
from baton.proxy.routing.memory import RoutingMemory
from baton.proxy.routing.policy import Policy
from baton.proxy.routing.policy_file import DEFAULTS, build_policy, memory_for
from baton.proxy.routing.view import RequestView
from baton.proxy.simulator.simulation import MODEL, FleetSize, simulated_fleet

TARGET_US = 300.0
PROMPT_BYTES = 64 * 1024
SYSTEM_BYTES = 8 * 1024
BYTES_PER_TOKEN = 4
FLEETS = (10, 100, 1000)
BACKGROUND = 2_000
"""Requests that have gone through the fleet before anything is measured."""
ROUNDS = 10
IN_FLIGHT = 4
"""Requests on each decode worker while it is measured."""


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU microseconds of one fleet size."""

    workers: int
    hash_us: float
    lookup_us: float
    median_us: float
    p99_us: float
    dispatch_us: float
    """To note a dispatch afterwards: insert, book."""


class Prompts:
    """Conversations over one system prompt."""

    def __init__(self, seed: int) -> None:
        self._lot = random.Random(seed)
        self._system = self._lot.randbytes(SYSTEM_BYTES)
        self._histories = [self._lot.randbytes(PROMPT_BYTES // 2) for _ in range(64)]
        self._count = 0

    def request(self) -> RequestView:
        """Return the next request: the system prompt, one of the histories, and something new."""
        self._count += 1
        history = self._lot.choice(self._histories)
        fresh = self._lot.randbytes(PROMPT_BYTES - len(self._system) - len(history))
        return RequestView(
            request_id=f"r{self._count}",
            model=MODEL,
            prompt_tokens=PROMPT_BYTES // BYTES_PER_TOKEN,
            output_tokens=256,
            prompt=self._system + history + fresh,
        )


def measure(workers: int, policy_name: str, decisions: int) -> Cost:
    """Return what decisions cost among `workers`."""
    config = DEFAULTS[policy_name]
    memory = memory_for(config, now=0.0)
    policy = build_policy(config, memory)
    fleet = simulated_fleet(FleetSize(workers // 2, workers - workers // 2))
    prompts = Prompts(seed=workers)
    now = _warm_up(policy, memory, fleet, prompts, IN_FLIGHT * workers // 2)
    hashing: list[float] = []
    lookups: list[float] = []
    whole: list[float] = []
    dispatches: list[float] = []
    gc.collect()
    gc.disable()
    for _ in range(decisions):
        now += 0.001
        twin, request = prompts.request(), prompts.request()
        twin.prefix_keys = None
        hashing.append(_cpu_us(lambda: memory.keys(twin)))  # noqa: B023
        lookups.append(_cpu_us(lambda: memory.match(twin, now)))  # noqa: B023
        decided = []
        whole.append(_cpu_us(lambda: decided.append(policy.decide(request, fleet, now))))  # noqa: B023
        decision = decided[0]
        assert decision is not None
        dispatches.append(_cpu_us(lambda: memory.dispatched(request, decision, now)))  # noqa: B023
        memory.prefilled(request, prompt_tokens=None, cached_tokens=2048, now=now + 1)
        memory.streaming(request, cached_tokens=None, now=now + 1)
        memory.ended(request, output_tokens=100, now=now + 2)
    gc.enable()
    return Cost(
        workers,
        _least_median(hashing),
        _least_median(lookups),
        _least_median(whole),
        percentile(whole, 0.99),
        _least_median(dispatches),
    )


def _least_median(values: Sequence[float]) -> float:
    """Return the least of the medians of consecutive rounds."""
    size = max(len(values) // ROUNDS, 1)
    return min(percentile(values[start : start + size], 0.5) for start in range(0, len(values), size))


def _warm_up(policy: Policy, memory: RoutingMemory, fleet: Fleet, prompts: Prompts, in_flight: int) -> float:
    """Send requests through the fleet, leave `in_flight` of them there, and return the time it is then."""
    now = 0.0
    open_requests: list[RequestView] = []
    for _ in range(BACKGROUND):
        now += 0.01
        request = prompts.request()
        decision = policy.decide(request, fleet, now)
        assert decision is not None
        memory.dispatched(request, decision, now)
        open_requests.append(request)
        if len(open_requests) > in_flight:
            done = open_requests.pop(0)
            memory.prefilled(done, prompt_tokens=None, cached_tokens=2048, now=now)
            memory.streaming(done, cached_tokens=None, now=now)
            memory.ended(done, output_tokens=100, now=now)
    return now


def _cpu_us(action: Callable[[], object]) -> float:
    began = time.thread_time_ns()
    action()
    return (time.thread_time_ns() - began) / 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table and the figure; return 0 if the target holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="pair_cost", choices=sorted(DEFAULTS))
    parser.add_argument("--decisions", type=int, default=500)
    given = parser.parse_args(arguments)
    costs = [measure(workers, given.policy, given.decisions) for workers in FLEETS]
    rows = [
        (str(cost.workers), *(f"{value:.0f}" for value in (
            cost.hash_us, cost.lookup_us, cost.median_us, cost.p99_us, cost.dispatch_us
        )))
        for cost in costs
    ]  # fmt: skip
    header = ("workers", "hash us", "lookup us", "decision us", "p99", "dispatch us")
    print(f"policy {given.policy}, prompt {PROMPT_BYTES // 1024} KiB; CPU of hash + lookup + choice")
    print(render(header, rows))
    figure = costs[-1].median_us
    print(
        f"routing: {figure:.0f} us of CPU a decision at {FLEETS[-1]} workers (target <= {TARGET_US:.0f} us)"
    )
    return 0 if figure <= TARGET_US else 1


if __name__ == "__main__":
    sys.exit(main())
