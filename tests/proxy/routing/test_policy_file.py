"""A policy file says everything or is refused with the path of what is wrong."""

from pathlib import Path

import pytest

from baton.proxy.routing.policy_file import (
    DEFAULTS,
    PolicyFileError,
    build_policy,
    dump_policy,
    learns,
    load_policy_file,
    may_keep_memory,
    memory_for,
    parse_policy,
)

SHIPPED = Path(__file__).parents[3] / "deploy" / "policies"


def test_every_policy_is_shipped_with_all_its_defaults_written_out() -> None:
    assert {path.stem for path in SHIPPED.glob("*.yaml")} == set(DEFAULTS)
    for name, config in DEFAULTS.items():
        written = (SHIPPED / f"{name}.yaml").read_text()
        assert load_policy_file(SHIPPED / f"{name}.yaml") == config
        assert parse_policy(f"policy: {name}", "empty") == config
        assert strip_comments(written) == strip_comments(dump_policy(config))


def strip_comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policy: pair_cost\nscales: {prefill: -1}", r"f\.yaml: scales\.prefill: Expected `float` >= 0"),
        ("policy: pair_cost\nscales: {prefil: 1}", r"f\.yaml: scales\.prefil: no such setting"),
        ("policy: pair_cost\nfoo: 1", r"f\.yaml: foo: no such setting"),
        (
            "policy: scorers\nprefill: {scorers: [{scorer: x}]}",
            r"prefill\.scorers\[0\]\.scorer: Invalid enum",
        ),
        ("policy: pair_cost\nrates: {prefill: {base_s: 0}}", r"rates\.prefill\.base_s: Expected"),
        ("policy: nearest", r"policy: 'nearest' is none of round_robin"),
        ("policy: [a]", r"policy: \['a'\] is none of"),
        ("scales: {}", r"policy: missing"),
        ("", r"policy: missing"),
        ("- a", r"policy: missing"),
        ("a: b: c", r"not YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(text: str, message: str) -> None:
    with pytest.raises(PolicyFileError, match=message):
        parse_policy(text, "f.yaml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match=r"gone\.yaml: .*No such file"):
        load_policy_file(tmp_path / "gone.yaml")


def test_what_was_learned_is_kept_while_index_and_priors_stay() -> None:
    old = parse_policy("policy: pair_cost", "a")

    assert may_keep_memory(old, parse_policy("policy: pair_cost\nscales: {wait: 2}", "b"))
    assert not may_keep_memory(old, parse_policy("policy: pair_cost\nindex: {chunk_bytes: 256}", "b"))


def test_policies_that_say_the_same_of_the_memory_may_take_it_over_from_each_other() -> None:
    learning = [name for name, config in DEFAULTS.items() if learns(config)]

    assert learning == ["cache_aware", "scorers", "dynamo_cost", "lmetric", "pair_cost"]
    for name in learning:
        assert may_keep_memory(DEFAULTS[name], DEFAULTS["pair_cost"])
    other_model = parse_policy("policy: pair_cost\nkv_bytes_per_token: 1000", "b")
    assert not may_keep_memory(DEFAULTS["cache_aware"], other_model)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_policy_can_be_built(name: str) -> None:
    memory = memory_for(DEFAULTS[name], now=0.0)

    assert build_policy(DEFAULTS[name], memory) is not None
