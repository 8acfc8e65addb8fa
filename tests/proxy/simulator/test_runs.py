"""Comparisons and sweeps run every policy and split, and their page needs nothing from elsewhere."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from baton.cli.main import app
from baton.proxy.routing.policy_file import DEFAULTS
from baton.proxy.simulator.engine_model import EngineModel, ModelError, load_engine_model
from baton.proxy.simulator.outcome import Objective, percentiles
from baton.proxy.simulator.report import AtLoad, render_page, render_picture
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
    page = render_page("<T>", ["a & b"], [AtLoad(3.0, outcomes)], SCENE.objective)

    assert [outcome.name for outcome in outcomes] == ["round_robin", "pair_cost"]
    assert len(render([row(outcome) for outcome in outcomes]).splitlines()) == 3
    assert page.count("<svg") == 7
    assert "&lt;T&gt;" in page
    assert not re.search(r"(src|href)=|https?://", page)


def test_several_loads_are_drawn_over_each_other_in_page_and_picture() -> None:
    loads = [AtLoad(rate, compare(SCENE, POLICIES, FleetSize(1, 1), ignore)) for rate in (2.0, 4.0)]
    page = render_page("T", [], loads, SCENE.objective)
    picture = render_picture(loads, SCENE.objective)

    assert page.count("<svg") == 2 + 2 * 7
    assert all(text in page for text in ("pair_cost 2/s", "pair_cost 4/s", "requests/s that come"))
    drawn = ElementTree.fromstring(picture)
    texts = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"round_robin", "pair_cost", "TTFT, s", "good requests/s"} <= texts
    assert not re.search(r"(src|href)=", picture)


def test_the_legend_of_a_picture_has_room_for_every_policy() -> None:
    outcome = compare(SCENE, POLICIES[:1], FleetSize(1, 1), ignore)[0]
    ten = [replace(outcome, name=f"policy {number}") for number in range(10)]
    drawn = ElementTree.fromstring(render_picture([AtLoad(2.0, ten)], SCENE.objective))
    keys = [text for text in drawn.iter("{http://www.w3.org/2000/svg}text") if "policy" in (text.text or "")]

    assert len(keys) == 10
    assert all(float(key.attrib["x"]) + 100 <= float(drawn.attrib["width"]) for key in keys)
    assert all(float(key.attrib["y"]) <= float(drawn.attrib["height"]) for key in keys)


def test_a_sweep_tries_every_split_and_puts_the_best_first() -> None:
    runs = sweep(SCENE, POLICIES[1], 4, ignore)

    assert sorted(size.prefill for size, _ in runs) == [1, 2, 3]
    assert all(size.prefill + size.decode == 4 for size, _ in runs)
    assert runs[0][1].goodput == max(outcome.goodput for _, outcome in runs)


def test_percentiles_are_by_nearest_rank() -> None:
    figures = percentiles([float(value) for value in range(100)])

    assert (figures.p50, figures.p90, figures.p99) == (50.0, 90.0, 99.0)


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


def test_speeds_and_policy_files_are_compared_and_drawn(tmp_path: Path) -> None:
    (tmp_path / "cheap.yaml").write_text("policy: pair_cost\nscales: {backlog: 0.5}")
    (tmp_path / "plain.yaml").write_text("policy: random")
    picture = tmp_path / "p.svg"
    files = ["--compare", str(tmp_path / "cheap.yaml"), "--compare", str(tmp_path / "plain.yaml")]
    done = CliRunner().invoke(
        app,
        ["simulate", "--sessions", "4", *files, "--speed", "1", "--speed", "3", "--picture", str(picture)],
    )

    assert done.exit_code == 0, done.output
    assert [done.stdout.count(word) for word in ("speed 1:", "speed 3:", "cheap", "plain")] == [1, 1, 2, 2]
    assert picture.read_text().startswith("<svg")


def test_the_command_sweeps_every_split_of_a_budget() -> None:
    done = CliRunner().invoke(app, ["simulate", "--sessions", "4", "--sweep", "2:2"])

    assert done.exit_code == 0, done.output
    assert sorted(re.findall(r"pair_cost (\d:\d)", done.stdout)) == ["1:3", "2:2", "3:1"]


def test_the_command_names_what_is_wrong() -> None:
    for arguments, message in (
        (["--sweep", "2:2", "--report", "x.html"], "--report: a sweep prints a table only"),
        (["--speed", "nan"], "--speed nan"),
        (["--policy", "none.yaml"], "none.yaml"),
        (["--sweep", "x"], "--sweep x"),
        (["--trace", "gone.jsonl"], "gone.jsonl"),
        (["--speed", "0"], "--speed 0"),
    ):
        failed = CliRunner().invoke(app, ["simulate", *arguments])
        assert failed.exit_code == 2
        assert message in failed.output
