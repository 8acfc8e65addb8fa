"""The plan of a fleet gives each child its command line and the proxy its workers."""

import json
import shlex

import msgspec

from baton.cli.fleet import (
    FleetPlan,
    demo_request,
    pairs_text,
    proxy_command,
    proxy_settings,
    worker_command,
)
from baton.cli.fleet_messages import Address, ChildKind
from baton.cli.rank_groups import RankGroups

PLAN = FleetPlan(
    model="/models/m",
    served_model_name="m",
    host="0.0.0.0",
    port=8000,
    prefill=2,
    decode=1,
    worker_flags=("--threads", "1"),
    proxy_flags=("--set", "policy=least_tokens"),
    launcher=("baton",),
)


def test_workers_are_named_by_role_and_number() -> None:
    assert PLAN.workers == {
        "prefill-0": ChildKind.PREFILL,
        "prefill-1": ChildKind.PREFILL,
        "decode-0": ChildKind.DECODE,
    }


def test_a_new_worker_takes_a_free_loopback_port() -> None:
    assert worker_command(PLAN, "decode-0", None, parent_pid=7) == shlex.split(
        "baton decode --host 127.0.0.1 --port 0 --parent-pid 7 --name decode-0 --model /models/m"
        " --served-model-name m --threads 1"
    )


def started(plan: FleetPlan, name: str) -> list[str]:
    return worker_command(plan, name, None, parent_pid=7, place=RankGroups(plan.groups).place(name))


def test_ranks_of_a_group_are_told_their_number_and_where_to_meet() -> None:
    plan = msgspec.structs.replace(PLAN, group_ports={ChildKind.PREFILL: (4100,)})

    assert started(plan, "prefill-1")[-6:] == shlex.split(
        "--set ranks.rank=1 --set ranks.size=2 --set ranks.port=4100"
    )
    assert "ranks.rank=0" not in started(plan, "decode-0")


def test_ranks_of_different_groups_meet_in_different_places() -> None:
    plan = msgspec.structs.replace(PLAN, prefill=4, group_ports={ChildKind.PREFILL: (4100, 4200)})

    assert started(plan, "prefill-2")[-6:] == shlex.split(
        "--set ranks.rank=0 --set ranks.size=2 --set ranks.port=4200"
    )


def test_a_newcomer_is_told_whom_to_join_and_leaves_the_rest_to_them() -> None:
    plan = msgspec.structs.replace(PLAN, worker_flags=("--set", "ranks.redundant_experts=2"))

    command = worker_command(plan, "decode-1", None, parent_pid=7, join=Address("127.0.0.1", 42))

    assert command[-6:] == shlex.split(
        "--set ranks.redundant_experts=2 --set ranks=null --join http://127.0.0.1:42"
    )


def test_a_restarted_worker_takes_its_old_address() -> None:
    command = worker_command(PLAN, "decode-0", Address("127.0.0.1", 41), parent_pid=7)

    assert command[command.index("--port") + 1] == "41"


def test_the_proxy_listens_where_it_was_asked_to() -> None:
    assert proxy_command(PLAN, None, "/tmp/p.yaml", parent_pid=7) == shlex.split(
        "baton proxy --host 0.0.0.0 --port 8000 --parent-pid 7 --config /tmp/p.yaml --set policy=least_tokens"
    )


def test_the_proxy_is_told_every_worker() -> None:
    settings = proxy_settings({"prefill-0": Address("127.0.0.1", 41), "decode-0": Address("127.0.0.1", 42)})

    assert settings == {
        "workers": [
            {"name": "prefill-0", "role": "prefill", "url": "http://127.0.0.1:41"},
            {"name": "decode-0", "role": "decode", "url": "http://127.0.0.1:42"},
        ]
    }


def test_pairs_are_counted() -> None:
    assert pairs_text(PLAN) == "2 prefill-decode pairs have shaken hands"


def test_the_demo_request_is_a_shell_line_that_asks_for_a_stream() -> None:
    words = shlex.split(demo_request(PLAN, Address("127.0.0.1", 8000)))

    assert words[:3] == ["curl", "-N", "http://127.0.0.1:8000/v1/chat/completions"]
    body = json.loads(words[words.index("-d") + 1])
    assert (body["model"], body["stream"]) == ("m", True)
