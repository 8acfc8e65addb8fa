"""The plan of a fleet on one host: which children there are and the command line that starts each. No I/O."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from .fleet_messages import Address, ChildKind
from .rank_groups import RankPlace

LOOPBACK = "127.0.0.1"
# -P: the working directory stays off the import path, where folders named like packages may lie.
LAUNCHER = (sys.executable, "-P", "-m", "baton.cli")
POLICY = {"policy": "pair_cost", "decode_alone": False}
"""How the proxy chooses unless told otherwise. Who starts both fleets on one host wants to see the hand-over:
no prompt is short enough to be left to a decode worker alone."""


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `baton up` was asked for."""

    model: str
    served_model_name: str
    host: str
    port: int
    prefill: int
    decode: int
    group_ports: Mapping[ChildKind, tuple[int, ...]] = {}
    """Where workers of a kind meet that are ranks: a port for each group that shares the model's experts.
    A group's workers are neighbours by number."""
    worker_flags: tuple[str, ...] = ()
    """Flags every worker gets."""
    proxy_flags: tuple[str, ...] = ()
    """Flags the proxy gets."""
    admin_token_file: Path | None = None
    """What those flags have the proxy ask of admin calls, if they say."""
    launcher: tuple[str, ...] = LAUNCHER
    """What the children's command lines begin with."""

    @property
    def workers(self) -> dict[str, ChildKind]:
        """Names and kinds, prefill workers first."""
        prefill = {f"prefill-{index}": ChildKind.PREFILL for index in range(self.prefill)}
        decode = {f"decode-{index}": ChildKind.DECODE for index in range(self.decode)}
        return prefill | decode

    @property
    def groups(self) -> dict[int, list[str]]:
        """Names of the workers of each group of ranks, by its port."""
        found: dict[int, list[str]] = {}
        for kind, ports in self.group_ports.items():
            names = [name for name, its_kind in self.workers.items() if its_kind is kind]
            size = len(names) // len(ports)
            found |= {port: names[at * size : (at + 1) * size] for at, port in enumerate(ports)}
        return found


def kind_of(name: str) -> ChildKind:
    """Return what a worker is by its name, such as `decode-3`."""
    return ChildKind(name.rpartition("-")[0])


def worker_command(
    plan: FleetPlan,
    name: str,
    address: Address | None,
    parent_pid: int,
    *,
    place: RankPlace | None = None,
    join: Address | None = None,
) -> list[str]:
    """Return the command line of worker `name`: on its old `address`, else on a free loopback port.

    place  of one that is a rank
    join   a worker whose ranks it joins; they tell it how ranks are set here
    """
    host, port = (address.host, address.port) if address else (LOOPBACK, 0)
    return [
        *(*plan.launcher, kind_of(name).value, *_common(host, port, parent_pid)),
        *("--name", name, "--model", plan.model, "--served-model-name", plan.served_model_name),
        *plan.worker_flags,
        *([] if place is None else _rank_flags(place)),
        *([] if join is None else ["--set", "ranks=null", "--join", join.url]),
    ]


def proxy_command(plan: FleetPlan, address: Address | None, config_file: str, parent_pid: int) -> list[str]:
    """Return the command line of the proxy, which reads its workers from `config_file`."""
    port = address.port if address else plan.port
    common = _common(plan.host, port, parent_pid)
    return [*plan.launcher, "proxy", *common, "--config", config_file, *plan.proxy_flags]


def proxy_settings(workers: Mapping[str, Address]) -> dict[str, object]:
    """Return the settings file of the proxy: the fleet, as far as it is known by address."""
    return {"workers": [worker_entry(name, address) for name, address in workers.items()]}


def worker_entry(name: str, address: Address) -> dict[str, str]:
    """Return what the proxy is told of a worker."""
    return {"name": name, "role": kind_of(name).value, "url": address.url}


def pairs_text(plan: FleetPlan) -> str:
    """Say how many prefill-decode pairs have shaken hands."""
    pairs = plan.prefill * plan.decode
    if pairs == 0:
        return "workers are ready"
    return f"{pairs} prefill-decode pair{'s have' if pairs > 1 else ' has'} shaken hands"


def demo_request(plan: FleetPlan, address: Address) -> str:
    """Return a curl line that streams an answer which can only come from the shipped KV of the prompt."""
    question = (
        "The code of the red door is 4827. The code of the blue gate is 1059. "
        "What is the code of the red door?"
    )
    body = {
        "model": plan.served_model_name,
        "stream": True,
        "messages": [{"role": "user", "content": question}],
    }
    return (
        f"curl -N {address.url}/v1/chat/completions -H 'Content-Type: application/json' "
        f"-d '{json.dumps(body)}'"
    )


def _rank_flags(place: RankPlace) -> list[str]:
    settings = msgspec.structs.asdict(place)
    return [flag for key, value in settings.items() for flag in ("--set", f"ranks.{key}={value}")]


def _common(host: str, port: int, parent_pid: int) -> list[str]:
    return ["--host", host, "--port", str(port), "--parent-pid", str(parent_pid)]
