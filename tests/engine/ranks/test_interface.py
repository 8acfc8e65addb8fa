"""Ranks on several hosts meet, whatever the hosts are called: two network namespaces play the hosts."""

from collections.abc import Iterator

import pytest

from baton.engine.ranks.interface import interface_with, own_address
from support.hosts import ADDRESSES, Host, joined_hosts

PORT = 29500

JOIN = """
import sys
import torch
from baton.engine.config import RanksConfig
from baton.engine.ranks.group import RankGroup
rank, host, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
config = RanksConfig(rank=rank, size=2, host=host, port=port, timeout_s=60.0)
group = RankGroup(config, torch.device("cpu"), lambda: None)
print(group.largest([rank, -rank]))
"""


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    with joined_hosts() as both:
        yield both


def test_ranks_of_two_hosts_meet_at_rank_0s_address(hosts: list[Host]) -> None:
    ranks = [host.run_python(JOIN, str(rank), ADDRESSES[0], str(PORT)) for rank, host in enumerate(hosts)]

    try:
        said = [rank.communicate(timeout=90)[0].strip() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()

    assert said == ["[1, 0]", "[1, 0]"]


def test_the_loopback_address_is_found_on_its_interface() -> None:
    assert own_address("127.0.0.1", PORT) == "127.0.0.1"
    assert interface_with("127.0.0.1") == "lo"
    assert interface_with("192.0.2.1") is None  # an address for documentation
