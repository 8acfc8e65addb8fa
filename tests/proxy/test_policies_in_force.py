"""Policies of a running proxy: explained, tried dry, shadowed, and changed under load with nothing lost."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from baton.proxy.config import ConfigError, PolicyReload

from .fakes import FakeWorker, chat, fails
from .house import House, housed, pair, two_pairs

QUICK = PolicyReload(interval_s=0.02)


async def write(path: Path, text: str) -> None:
    """Replace a file at once, as editors do."""
    fresh = path.with_suffix(".new")
    await asyncio.to_thread(fresh.write_text, text)
    await asyncio.to_thread(os.replace, fresh, path)


async def looked_at(house: House) -> None:
    """Wait until all policy files were looked at, from the beginning."""
    looked = house.proxy.hub.policy_watch.looked
    for _ in range(2):
        looked.clear()
        await looked.wait()


SPLIT = "policy: pair_cost\ndecode_alone: false\n"


def metric(text: str, name: str) -> float:
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))


async def explained(house: House, request_id: str) -> Any:
    answer = await house.get(f"/route/explain/{request_id}")
    assert answer.status == 200
    return answer.json


async def test_a_decision_is_explained_with_all_candidates_and_what_it_came_to(tmp_path: Path) -> None:
    await write(tmp_path / "split.yaml", SPLIT)
    async with housed(*two_pairs(), policy=str(tmp_path / "split.yaml")) as house:
        answer = await house.ask(chat(), "X-Request-Id: mine")
        report = await explained(house, "mine")
        unknown = await house.get("/route/explain/nobody")

    [decision] = report["decisions"]
    assert (report["request_id"], report["model"], unknown.status) == ("mine", "demo", 404)
    assert decision["policy_version"].startswith("pair_cost-")
    assert decision["decode"] == answer.headers["x-baton-decode"]
    assert decision["unit"] == "s"
    chosen = [each for each in decision["candidates"] if each["chosen"]]
    assert (chosen[0]["prefill"], chosen[0]["decode"]) == (decision["prefill"], decision["decode"])
    assert {each["decode"] for each in decision["candidates"]} == {
        worker.name for worker in house.workers if worker.role == "decode"
    }
    assert all(each["terms"]["cost"] >= chosen[0]["terms"]["cost"] for each in decision["candidates"])
    actual = decision["actual"]
    # The loop tells its time in milliseconds: of a quick pair it may tell none.
    assert 0 <= actual["prefill_s"] + actual["decode_first_byte_s"] <= actual["total_s"]
    assert report["output_tokens"] == 1  # two events of text, less the one that stands for the role


async def test_a_retried_request_shows_each_decision_and_which_leg_failed(tmp_path: Path) -> None:
    await write(tmp_path / "split.yaml", SPLIT)
    async with housed(*two_pairs(), policy=str(tmp_path / "split.yaml")) as house:
        for worker in house.workers[::2]:
            worker.next.append(fails(500))
        await house.ask(chat(), "X-Request-Id: mine")
        report = await explained(house, "mine")

    assert [each["failed_leg"] for each in report["decisions"]] == ["prefill", "prefill", None]


async def test_a_dry_run_decides_and_sends_nothing() -> None:
    async with housed(*pair(), policy="pair_cost", shadow_policy="round_robin") as house:
        report = await post(house, "/route/dry-run", chat())
        bad = await post(house, "/route/dry-run", b"[]")

        assert report["decode"] == house.decode.name
        assert report["candidates"]
        assert report["shadow"]["policy_version"].startswith("round_robin-")
        assert bad["error"]["type"] == "invalid_request_error"
        assert house.prefill.requests == house.decode.requests == []


async def post(house: House, path: str, body: bytes) -> Any:
    async with house.connect() as client:
        await client.post(body, path=path)
        return (await client.answer()).json


async def test_a_shadow_is_asked_and_not_followed() -> None:
    async with housed(*pair(), FakeWorker("decode"), shadow_policy="least_tokens") as house:
        for _ in range(6):
            await house.ask(chat())
        text = (await house.get("/metrics")).body.decode()

        assert len(house.workers[1].requests) == len(house.workers[2].requests) == 3
    assert metric(text, "baton_proxy_shadow_total") == 6
    assert metric(text, 'baton_proxy_decisions_total{model="",shadow="true"') == 6


async def test_each_model_may_have_its_own_policy() -> None:
    workers = (*pair(), FakeWorker("decode", model="other"))
    async with housed(*workers, model_policies={"other": "pair_cost"}) as house:
        await house.ask(chat(), "X-Request-Id: a")
        await house.ask(chat(model="other"), "X-Request-Id: b")
        versions = [(await explained(house, name))["decisions"][0]["policy_version"] for name in "ab"]

    assert [version.partition("-")[0] for version in versions] == ["round_robin", "pair_cost"]


async def test_a_policy_file_that_changes_is_rehearsed_and_taken_over(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    await write(file, "policy: round_robin\n")
    async with housed(*pair(), policy=str(file), policy_reload=QUICK) as house:
        await house.ask(chat(), "X-Request-Id: before")
        await write(file, "policy: pair_cost\nscales: {transfer: 2.0}\n")
        await looked_at(house)
        await house.ask(chat(), "X-Request-Id: after")
        versions = [
            (await explained(house, name))["decisions"][0]["policy_version"] for name in ("before", "after")
        ]
        fleet = (await house.get("/fleet")).json
        text = (await house.get("/metrics")).body.decode()

    assert [version.partition("-")[0] for version in versions] == ["round_robin", "pair_cost"]
    assert fleet["policy_version"] == versions[1]
    assert "baton_proxy_policy_reloads_total 1.0" in text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("policy: pair_cost\nscales: {transfer: -1}\n", "scales.transfer"),
        ("policy: nonsense\n", "nonsense"),
        ("policy: [", "not YAML"),
        (None, "No such file"),
    ],
    ids=["bad value", "unknown policy", "not YAML", "gone"],
)
async def test_a_bad_policy_file_is_refused_and_the_old_policy_stays(
    tmp_path: Path, text: str | None, fault: str
) -> None:
    file = tmp_path / "policy.yaml"
    await write(file, "policy: least_tokens\n")
    async with housed(*pair(), policy=str(file), policy_reload=QUICK) as house:
        before = (await house.get("/fleet")).json
        if text is None:
            await asyncio.to_thread(file.unlink)
        else:
            await write(file, text)
        await looked_at(house)
        served = await house.ask(chat())
        after = (await house.get("/fleet")).json
        metrics = (await house.get("/metrics")).body.decode()
        await write(file, "policy: pair_cost\n")
        await looked_at(house)
        mended = (await house.get("/fleet")).json

    assert served.text == "one two"
    assert after["policy_version"] == before["policy_version"]
    assert fault in after["policy_problems"][0]
    assert "baton_proxy_policy_reloads_refused_total 1.0" in metrics
    assert (mended["policy_problems"], mended["policy_version"][:9]) == ([], "pair_cost")


async def test_a_policy_file_that_is_bad_at_the_start_is_an_error_that_names_the_key(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    await write(file, "policy: pair_cost\nindex: {max_bytes: 1}\n")

    with pytest.raises(ConfigError, match=r"index\.max_bytes"):
        async with housed(*pair(), policy=str(file)):
            pass


POLICIES = [
    "policy: pair_cost\n",
    "policy: pair_cost\nindex: {chunk_bytes: 64}\n",
    "policy: round_robin\n",
    "policy: cache_aware\n",
    "policy: scorers\n",
]


async def test_policies_that_change_under_load_lose_no_request(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    await write(file, POLICIES[0])
    async with housed(*two_pairs(), policy=str(file), policy_reload=QUICK) as house:
        changed = asyncio.Event()
        served: list[str] = []

        async def asks() -> None:
            async with house.connect() as client:
                while not changed.is_set():
                    await client.post(chat())
                    served.append((await client.answer()).text)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(asks())
            for text in POLICIES[1:]:
                await write(file, text)
                await looked_at(house)
            changed.set()
        fleet = (await house.get("/fleet")).json

        assert house.proxy.hub.policy_watch.counts.taken == len(POLICIES) - 1
    assert len(served) > 20
    assert set(served) == {"one two"}
    assert fleet["policy_version"].startswith("scorers-")


async def test_what_is_learned_is_given_back_when_requests_end() -> None:
    async with housed(*two_pairs(), policy="pair_cost") as house:
        for worker in house.workers:
            worker.next.append(fails(500))
        for _ in range(5):
            await house.ask(chat())
        load = house.proxy.hub.courses.default.memory.load

        assert not any(row.prompts for row in load.prefill)
        assert not any(row.sequences or row.reserved_tokens for row in load.decode)
