"""The bench of decisions measures a fleet that is warm and busy."""

from baton.bench.routing import IN_FLIGHT, Prompts, Traffic
from baton.proxy.routing.policy_file import DEFAULTS, build_policy, memory_for
from baton.proxy.simulator.simulation import FleetSize, simulated_fleet


def test_every_worker_is_busy_and_known_when_the_measurement_begins() -> None:
    config, decoding = DEFAULTS["pair_cost"], 100
    memory = memory_for(config, now=0.0)
    fleet = simulated_fleet(FleetSize(decoding, decoding))
    Traffic(build_policy(config, memory), memory, fleet, IN_FLIGHT * decoding).warm_up(Prompts(seed=1))
    steps = [memory.load.decode_row(name) for name in fleet.workers if name.startswith("d")]
    queues = [memory.load.prefill_row(name) for name in fleet.workers if name.startswith("p")]
    fleets_step = memory.rates.decode_step_fit("nobody")

    # What is being prefilled is booked on decode too.
    assert 1.0 <= sum(row.sequences for row in steps) / (IN_FLIGHT * decoding) < 1.5
    assert 0.5 <= sum(row.prompts for row in queues) / len(queues) < 2
    assert sum(row.fit is not fleets_step for row in steps) > 0.9 * len(steps)
    assert len(memory.rates.links[0]) > 300
