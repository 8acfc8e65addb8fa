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
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baton.bench.table import percentile, render
from baton.proxy.routing.fleet import Fleet
from baton.proxy.routing.memory import RoutingMemory
from baton.proxy.routing.policy import Decision, Policy
from baton.proxy.routing.policy_file import DEFAULTS, build_policy, memory_for
from baton.proxy.routing.view import RequestView
from baton.proxy.simulator.simulation import MODEL, FleetSize, simulated_fleet

TARGET_US = 300.0
PROMPT_BYTES = 64 * 1024
SYSTEM_BYTES = 8 * 1024
BYTES_PER_TOKEN = 4
FLEETS = (10, 100, 1000)
ROUNDS = 10
IN_FLIGHT = 4
"""Requests on each decode worker while it is measured."""
ENDED = 8
"""Requests for each decode worker that have gone through the fleet before anything is measured."""
PREFILL_S = 0.6
"""From its dispatch to the prompt's answer."""
HAND_OVER_S = 0.03
ANSWER_S = 2.5
OUTPUT_TOKENS = 100


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


class Traffic:
    """Requests that come evenly, have their prompts answered and their answers ended in time."""

    def __init__(self, policy: Policy, memory: RoutingMemory, fleet: Fleet, in_flight: int) -> None:
        """Come so often that `in_flight` decode at any time."""
        self._policy, self._memory, self._fleet = policy, memory, fleet
        self._now = 0.0
        self._gap_s = ANSWER_S / in_flight
        self._in_flight = in_flight
        self._prefilling: deque[tuple[float, RequestView, int]] = deque()
        self._decoding: deque[tuple[float, RequestView]] = deque()

    def warm_up(self, prompts: Prompts) -> None:
        """Fill the fleet, and have `ENDED` more for each decode worker go through it."""
        for _ in range(round(self._in_flight * (1 + PREFILL_S / ANSWER_S + ENDED / IN_FLIGHT))):
            now, request = self.pass_time(), prompts.request()
            decision = self._policy.decide(request, self._fleet, now)
            assert decision is not None
            held = self.held_tokens(request, decision)
            self._memory.dispatched(request, decision, now)
            self.sent(request, held)

    def pass_time(self) -> float:
        """Return when the next request comes, with everything done that is due by then."""
        memory, now = self._memory, self._now + self._gap_s
        self._now = now
        while self._prefilling and self._prefilling[0][0] <= now:
            due, request, held = self._prefilling.popleft()
            memory.prefilled(request, prompt_tokens=request.prompt_tokens, cached_tokens=held, now=due)
            memory.streaming(request, cached_tokens=None, now=due + HAND_OVER_S)
            self._decoding.append((due + ANSWER_S, request))
        while self._decoding and self._decoding[0][0] <= now:
            due, request = self._decoding.popleft()
            memory.ended(request, output_tokens=OUTPUT_TOKENS, now=due)
        return now

    def held_tokens(self, request: RequestView, decision: Decision) -> int:
        """Return how much of the prompt the chosen worker holds: all that the index says."""
        computes = decision.prefill or decision.decode
        chunks = self._memory.match(request, self._now).chunks(computes.name)
        return min(round(chunks * request.key_tokens), request.prompt_tokens - 1)

    def sent(self, request: RequestView, held_tokens: int) -> None:
        """It was dispatched now."""
        self._prefilling.append((self._now + PREFILL_S, request, held_tokens))


def measure(workers: int, policy_name: str, decisions: int) -> Cost:
    """Return what decisions cost among `workers`."""
    config = DEFAULTS[policy_name]
    memory = memory_for(config, now=0.0)
    policy = build_policy(config, memory)
    fleet_size = FleetSize(workers // 2, workers - workers // 2)
    fleet = simulated_fleet(fleet_size)
    prompts = Prompts(seed=workers)
    traffic = Traffic(policy, memory, fleet, IN_FLIGHT * fleet_size.decode)
    traffic.warm_up(prompts)
    hashing: list[float] = []
    lookups: list[float] = []
    whole: list[float] = []
    dispatches: list[float] = []
    gc.collect()
    gc.disable()
    for _ in range(decisions):
        now = traffic.pass_time()
        twin, request = prompts.request(), prompts.request()
        hashing.append(_cpu_us(lambda: memory.keys(twin)))  # noqa: B023
        lookups.append(_cpu_us(lambda: memory.match(twin, now)))  # noqa: B023
        decided = []
        whole.append(_cpu_us(lambda: decided.append(policy.decide(request, fleet, now))))  # noqa: B023
        decision = decided[0]
        assert decision is not None
        held = traffic.held_tokens(request, decision)
        dispatches.append(_cpu_us(lambda: memory.dispatched(request, decision, now)))  # noqa: B023
        traffic.sent(request, held)
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
