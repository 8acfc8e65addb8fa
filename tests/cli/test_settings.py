"""A setting comes from the file, a flag or `--set`, in that order, and a bad one is named."""

from pathlib import Path

import msgspec
import pytest

from baton.cli.settings import SettingsError, load_settings


class Inner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ttl_s: float = 30.0


class Outer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str
    port: int = 0
    sizes: list[int] | None = None
    inner: Inner = Inner()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "worker.yaml"
    path.write_text("model: from-file\nport: 1\ninner: {ttl_s: 5}\n")
    return path


def test_flags_go_over_the_file_and_overrides_over_both(file: Path) -> None:
    settings = load_settings(
        Outer,
        file=file,
        flags={"port": 2, "model": None},
        overrides=["port=3", "inner.ttl_s=7.5", "sizes=[1, 2]"],
    )

    assert settings == Outer(model="from-file", port=3, sizes=[1, 2], inner=Inner(ttl_s=7.5))


def test_what_nobody_gave_keeps_its_default() -> None:
    assert load_settings(Outer, flags={"model": "m"}) == Outer(model="m")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["prot=1"], "unknown field `prot`"),
        (["inner.ttl=1"], "inner: Object contains unknown field `ttl`"),
        (["port=high"], "port: Expected `int`, got `str`"),
        (["inner.ttl_s=soon"], "inner.ttl_s: Expected `float`, got `str`"),
        (["port.x.y=1", "port=2", "port.x=1"], "port is a value, not a group"),
        (["port"], "--set port: expected key=value"),
        (["port=[1"], "--set port=[1: the value is not valid YAML"),
    ],
)
def test_a_bad_setting_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(Outer, flags={"model": "m"}, overrides=overrides)

    assert message in str(raised.value)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="missing required field `model`"):
        load_settings(Outer)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a list\n", "expected a mapping"),
        ("1: x\n", "expected a mapping"),
        ("model: [\n", "not valid YAML"),
        ("model: m\nport: x\n", "port: Expected `int`"),
    ],
)
def test_a_bad_file_is_named_with_the_fault(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content)

    with pytest.raises(SettingsError) as raised:
        load_settings(Outer, file=path)

    assert str(raised.value).startswith(f"{path}: ")
    assert message in str(raised.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: No such file"):
        load_settings(Outer, file=tmp_path / "none.yaml")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\n")

    assert load_settings(Outer, file=path, flags={"model": "m"}) == Outer(model="m")
