"""The command measures scripted workers, writes a file that the simulator takes, and says what was wrong."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from baton.cli.main import app
from baton.proxy.calibration import console
from baton.proxy.calibration.console import CalibrationWish, measure
from baton.proxy.calibration.model_fit import CalibrationError
from baton.proxy.simulator.engine_model import DecodeModel, EngineModel, LinkModel, PrefillModel

from .scripted import KV_BYTES, ScriptedFleet

TRUE = EngineModel(
    prefill=PrefillModel(step_base_s=0.001, token_s=4e-6, pair_s=4e-9),
    decode=DecodeModel(step_base_s=0.001, row_s=1e-5, context_token_s=0.0),
    link=LinkModel(base_s=0.002, bytes_per_s=1e9),
)
WISH = CalibrationWish(
    url="",
    out=Path("unused"),
    model=None,
    engine=None,
    longest=256,
    streams=2,
    check=0,
    check_busy=0.5,
    seed=0,
)


@asynccontextmanager
async def running(fleet: ScriptedFleet) -> AsyncIterator[CalibrationWish]:
    async with TestServer(fleet.app()) as server:
        fleet.url = str(server.make_url("")).rstrip("/")
        yield msgspec.structs.replace(WISH, url=fleet.url)


async def test_a_fleets_own_phases_and_pools_are_what_its_model_is_made_of() -> None:
    async with running(ScriptedFleet(TRUE)) as wish:
        surveyed, calibration, predicted = await measure(
            msgspec.structs.replace(wish, check=4), EngineModel()
        )
    model = calibration.model

    assert (surveyed.prefill_workers, surveyed.decode_workers) == (1, 1)
    assert model.prefill.pair_s == pytest.approx(TRUE.prefill.pair_s, rel=0.02)
    assert model.prefill.token_s == pytest.approx(TRUE.prefill.token_s, rel=0.02)
    assert model.link.bytes_per_s == pytest.approx(1e9, rel=0.02)
    assert model.link.kv_bytes_per_token == KV_BYTES
    assert (model.prefill.kv_tokens, model.decode.kv_tokens) == (9000, 9000)
    assert max(sample.features[1] for sample in calibration.decode.samples) == 2
    assert all(sample.seconds > 0 for sample in calibration.decode.samples)
    assert [each.name for each in predicted] == ["TTFT", "TPOT", "queue and prefill"]


async def test_a_worker_that_tells_nothing_is_timed_from_outside() -> None:
    fleet = ScriptedFleet(TRUE, tells_phases=False)
    async with running(fleet) as wish:
        _, calibration, _ = await measure(wish, EngineModel())

    assert not calibration.phases_told
    assert calibration.model.link == EngineModel().link
    assert all(sample.seconds > 0 for sample in calibration.prefill.samples)
    assert all(body["ignore_eos"] and body["stream"] for body in fleet.asked)


async def test_a_check_needs_a_fleet_and_says_so_before_it_asks_anything() -> None:
    fleet = ScriptedFleet(TRUE, tells_phases=False)
    async with running(fleet) as wish:
        with pytest.raises(CalibrationError, match="--check needs a proxy"):
            await measure(msgspec.structs.replace(wish, check=4), EngineModel())
    assert fleet.asked == []


async def test_a_prompt_that_has_no_room_and_a_model_that_is_not_served_are_named() -> None:
    async with running(ScriptedFleet(TRUE)) as wish:
        for change, message in (({"longest": 600}, "--longest 600"), ({"model": "z"}, "does not serve z")):
            with pytest.raises(CalibrationError, match=message):
                await measure(msgspec.structs.replace(wish, **change), EngineModel())


async def test_a_refusal_or_a_broken_stream_ends_it_with_what_was_said() -> None:
    fleet = ScriptedFleet(TRUE)
    async with running(fleet) as wish:
        fleet.refusal = "no token ids here"
        with pytest.raises(CalibrationError, match=r"HTTP 400: .*no token ids here"):
            await measure(wish, EngineModel())
        fleet.refusal, fleet.broken_after = None, 0
        with pytest.raises(CalibrationError, match="no tokens"):
            await measure(wish, EngineModel())


def test_the_command_writes_a_file_with_its_figures_that_the_simulator_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def measured(
        wish: CalibrationWish, base: EngineModel
    ) -> tuple[console.Surveyed, console.Calibration, list[console.Predicted]]:
        async with running(ScriptedFleet(TRUE)) as here:
            return await measure(msgspec.structs.replace(wish, url=here.url), base)

    monkeypatch.setattr(console, "measure", measured)
    out = tmp_path / "engine.yaml"
    flags = ["--longest", "256", "--streams", "2"]
    done = CliRunner().invoke(app, ["simulate", "calibrate", "http://x", "--out", str(out), *flags])
    assert done.exit_code == 0, done.output
    assert out.read_text().startswith("# m at http://x\n# prefill step: ")

    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 100, "output_length": 9, "hash_ids": []}\n')
    simulated = CliRunner().invoke(app, ["simulate", "--trace", str(trace), "--engine", str(out)])
    assert simulated.exit_code == 0, simulated.output


def test_the_command_names_what_is_wrong(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("prefil: {}")
    for arguments, message in (
        (["http://127.0.0.1:9", "--out", "x.yaml"], "http://127.0.0.1:9"),
        (["http://127.0.0.1:9", "--out", "x.yaml", "--engine", str(bad)], "prefil"),
    ):
        failed = CliRunner().invoke(app, ["simulate", "calibrate", *arguments])
        assert failed.exit_code == 2
        assert message in failed.output
