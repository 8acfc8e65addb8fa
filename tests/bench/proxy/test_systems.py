"""Every router is started over the same workers, with a case's settings under its own names for them."""

from pathlib import Path

import pytest

from baton.bench.proxy.compiled import Ports
from baton.bench.proxy.systems import Family, Settings, System, command_of, compared_systems

PORTS = Ports(prefill=[1001, 1002], decode=[2001])
SETTINGS = Settings(timeout_s=2, body_bytes=1024)


def started(family: Family) -> str:
    system = System(name="any", family=family, policy="round_robin")
    return " ".join(command_of(system, PORTS, 80, SETTINGS, Path("/peers")))


@pytest.mark.parametrize("family", [Family.VLLM, Family.SGLANG, Family.BATON])
def test_all_workers_and_the_port_are_given(family: Family) -> None:
    command = started(family)

    assert command.count("--prefill http://127.0.0.1:100") == 2
    assert command.count("--decode http://127.0.0.1:2001") == 1
    assert "--port 80 " in command
    assert "--policy round_robin" in command


def test_settings_go_by_their_own_names() -> None:
    for family in (Family.VLLM, Family.SGLANG):
        assert "--request-timeout-secs 2 --max-payload-size 1024" in started(family)
    assert "--set timeouts.prefill_s=2" in started(Family.BATON)
    assert "--set limits.body_bytes=1024" in started(Family.BATON)


def test_the_reference_and_baton_can_be_chosen() -> None:
    assert {"direct", "vllm-rr", "sgl-rr", "baton"} <= compared_systems().keys()
