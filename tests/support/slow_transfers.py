"""What ranks run in the test of the slow network; processes import it by name."""

import time

import torch
import torch.distributed as dist

from baton.bench.ep.slow_network import Medium, SlowCollectives


def late_rows(group: dist.ProcessGroup, medium: Medium) -> list[int]:
    """Two transfers in flight, each late, waited for in turn."""
    collectives = SlowCollectives(group, medium)
    collectives.delay_s = 0.001
    started = time.monotonic()
    first, second = (collectives.all_gather(torch.tensor([[number]])) for number in (1, 2))
    came = [*first().flatten().tolist(), *second().flatten().tolist()]
    assert time.monotonic() - started >= collectives.delay_s
    return came
