"""A configuration is checked whole before anything starts, and a fault names its key."""

from pathlib import Path

import msgspec
import pytest

from baton.proxy.config import ConfigError, ProxyConfig, WorkerAddress, load_config, worker_of_flag
from baton.proxy.routing.fleet import Kind, Role

EXAMPLE = Path(__file__).parents[2] / "deploy" / "fleet.example.yaml"
WORKERS = "workers: [{url: 'http://h:1', role: decode}]\n"


def loaded(folder: Path, text: str) -> ProxyConfig:
    path = folder / "fleet.yaml"
    path.write_text(text)
    return load_config(path)


def test_the_example_shows_every_setting_with_its_default() -> None:
    config = load_config(EXAMPLE)
    defaults = ProxyConfig(workers=config.workers)

    assert config == defaults
    assert [(worker.title, worker.role, worker.kind) for worker in config.workers] == [
        ("prefill-0", Role.PREFILL, Kind.BATON),
        ("decode-0", Role.DECODE, Kind.BATON),
    ]


def test_a_worker_without_a_name_goes_by_its_address(tmp_path: Path) -> None:
    worker = loaded(tmp_path, WORKERS).workers[0]

    assert (worker.title, worker.host, worker.port) == ("h:1", "h", 1)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("workers: []", "workers: at least one is needed"),
        ("host: x", "workers: at least one is needed"),
        ("workers: [{url: 'http://h:1', role: cook}]", "$.workers[0].role"),
        ("workers: [{url: 'http://h:1', role: decode, weight: 3}]", "weight` - at `$.workers[0]"),
        ("workers: [{url: 'https://h:1', role: decode}]", "http://host:port"),
        ("workers: [{url: 'http://h:99999', role: decode}]", "port from 1 to 65535"),
        ("workers: [{url: 'http://h:abc', role: decode, name: d}]", "port from 1 to 65535"),
        ("workers: [{url: 'http://h:0', role: decode}]", "port from 1 to 65535"),
        ("workers: [{url: 'http://h:1', role: prefill}]", "role decode or both"),
        (WORKERS + "timeouts: {connect_s: 0}", "$.timeouts.connect_s"),
        (WORKERS + "timeouts: {conect_s: 1}", "conect_s"),
        (WORKERS + "port: 65536", "$.port"),
        (WORKERS + "policy: best", "round_robin"),
        ("workers: [{url: 'http://h:1', role: decode}, {url: 'http://h:1', role: prefill}]", "h:1"),
        ("workers: [", "not YAML"),
        ("- 1", "Expected `object`"),
    ],
)
def test_a_fault_names_the_file_and_the_key(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        loaded(tmp_path, text)

    assert "fleet.yaml" in str(raised.value)
    assert fault in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file"):
        load_config(tmp_path / "absent.yaml")


def test_a_name_must_fit_in_a_header() -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        WorkerAddress(url="http://h:1", role=Role.DECODE, name="a\r\nb")


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("http://h:1", {"url": "http://h:1", "role": "decode"}),
        ("sglang+http://h:1", {"url": "http://h:1", "kind": "sglang", "role": "decode"}),
        ("http://h+x:1", {"url": "http://h+x:1", "role": "decode"}),
    ],
)
def test_a_flag_may_name_the_kind_of_a_worker(flag: str, expected: dict[str, str]) -> None:
    assert worker_of_flag(flag, Role.DECODE) == expected


def test_a_kind_that_does_not_exist_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"Invalid enum value 'dynamo' - at `\$\.kind`"):
        msgspec.convert(worker_of_flag("dynamo+http://h:1", Role.DECODE), WorkerAddress)
