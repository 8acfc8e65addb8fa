"""Ranks on several hosts meet, whatever the hosts are called: two network namespaces play the hosts."""

import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from baton.engine.ranks.interface import interface_with, own_address

ADDRESSES = ("10.77.0.1", "10.77.0.2")
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


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """Names of two namespaces joined by a cable."""
    mark = uuid.uuid4().hex[:6]
    names = [f"baton-{mark}-{end}" for end in (0, 1)]
    cables = [f"b{mark}{end}" for end in (0, 1)]
    try:
        for name in names:
            ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            ip("netns", "del", name)


def test_ranks_of_two_hosts_meet_at_rank_0s_address(hosts: list[str]) -> None:
    ranks = [
        subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                name,
                sys.executable,
                "-P",
                "-c",
                JOIN,
                str(rank),
                ADDRESSES[0],
                str(PORT),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, name in enumerate(hosts)
    ]

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
