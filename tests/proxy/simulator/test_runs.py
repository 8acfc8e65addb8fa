"""Comparisons and sweeps run every policy and split, and their page needs nothing from elsewhere."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from baton.cli.main import app
from baton.proxy.routing.policy_file import DEFAULTS
from baton.proxy.simulator.engine_model import EngineModel, ModelError, load_engine_model
from baton.proxy.simulator.outcome import Objective, percentiles
from baton.proxy.simulator.report import render_page
from baton.proxy.simulator.runs import NamedPolicy, Scene, compare, sweep
from baton.proxy.simulator.sessions import SessionLoad, generate_sessions
from baton.proxy.simulator.simulation import FleetSize
from baton.proxy.simulator.table import HEADER, render, row

SCENE = Scene(
    trace=generate_sessions(SessionLoad(sessions=12), seed=3), model=EngineModel(), objective=Objective()
)
POLICIES = [NamedPolicy(name, DEFAULTS[name]) for name in ("round_robin", "pair_cost")]


def ignore(name: str, done: int, total: int) -> None:
    assert done <= total


def test_a_comparison_has_one_row_a_policy_and_a_self_contained_page() -> None:
    outcomes = compare(SCENE, POLICIES, FleetSize(2, 2), ignore)
    page = render_page("<T>", ["a & b"], outcomes, SCENE.objective)

    assert [outcome.name for outcome in outcomes] == ["round_robin", "pair_cost"]
    assert len(render([row(outcome) for outcome in outcomes]).splitlines()) == 3
    assert page.count("<svg") == 4
    assert "&lt;T&gt;" in page
    assert not re.search(r"(src|href)=|https?://", page)


def test_a_sweep_tries_every_split_and_puts_the_best_first() -> None:
    runs = sweep(SCENE, POLICIES[1], 4, ignore)

    assert sorted(size.prefill for size, _ in runs) == [1, 2, 3]
    assert all(size.prefill + size.decode == 4 for size, _ in runs)
    assert runs[0][1].goodput == max(outcome.goodput for _, outcome in runs)


def test_percentiles_are_by_nearest_rank() -> None:
    figures = percentiles([float(value) for value in range(100)])

    assert (figures.p50, figures.p90, figures.p99, figures.mean) == (50.0, 90.0, 99.0, 49.5)


def test_an_engine_model_is_strict(tmp_path: Path) -> None:
    path = tmp_path / "engine.yaml"
    path.write_text("prefill: {token_s: 0.001}\ndecode: {lockstep: false}")
    assert load_engine_model(path).prefill.token_s == 0.001

    path.write_text("prefill: {tokens_s: 0.001}")
    with pytest.raises(ModelError, match=r"engine\.yaml: .*tokens_s.*prefill"):
        load_engine_model(path)


def test_the_command_prints_a_table_and_writes_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = CliRunner().invoke(
        app,
        ["simulate", "--sessions", "5", "--prefill", "2", "--decode", "1", "--policy", "lmetric",
         "--compare", "pair_cost", "--report", str(page)],
    )  # fmt: skip

    assert done.exit_code == 0, done.output
    assert all(word in done.stdout for word in ("lmetric", "pair_cost", HEADER[1]))
    assert page.read_text().startswith("<!doctype html>")


def test_a_request_that_no_pool_has_room_for_is_named(tmp_path: Path) -> None:
    small = tmp_path / "small.yaml"
    small.write_text("decode: {kv_tokens: 2048}")
    failed = CliRunner().invoke(app, ["simulate", "--sessions", "1", "--engine", str(small)])

    assert failed.exit_code == 2
    assert "request 1 needs room" in failed.output
    assert "decode.kv_tokens: 2048" in failed.output


def test_the_command_names_what_is_wrong() -> None:
    for arguments, message in (
        (["--policy", "none.yaml"], "none.yaml"),
        (["--sweep", "x"], "--sweep x"),
        (["--trace", "gone.jsonl"], "gone.jsonl"),
        (["--speed", "0"], "--speed 0"),
    ):
        failed = CliRunner().invoke(app, ["simulate", *arguments])
        assert failed.exit_code == 2
        assert message in failed.output
