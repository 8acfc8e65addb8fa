"""What ranks run in the test of the slow network; processes import it by name."""

import torch
import torch.distributed as dist

from baton.bench.ep.slow_network import SlowCollectives


def late_rows(group: dist.ProcessGroup) -> list[int]:
    """Two transfers in flight, each late, waited for in turn."""
    collectives = SlowCollectives(group, torch.device("cpu"))
    collectives.delay_s = 0.001
    first, second = (collectives.all_gather(torch.tensor([[number]])) for number in (1, 2))
    return [*first().flatten().tolist(), *second().flatten().tolist()]
