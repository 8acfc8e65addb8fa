"""The `baton` command says what it can do, and names what it was told wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from baton import __version__
from baton.cli.main import may_guess

WORKER_FLAGS = """
    --model m --host 127.0.0.1 --port 1 --name n --served-model-name s --device cpu --dtype float32
    --threads 1 --kv-cache-bytes 1048576 --max-model-len 64 --transport socket --kv-host 127.0.0.1 --kv-port 2
""".split()


def baton(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "baton.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_version_is_printed() -> None:
    assert baton("version").stdout.strip() == __version__


def test_every_subcommand_is_listed() -> None:
    listed = baton("--help").stdout

    assert [
        name for name in ("up", "proxy", "prefill", "decode", "chat", "version") if name not in listed
    ] == []


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_every_flag_of_a_worker_is_a_setting_and_the_unknown_one_is_named(role: str) -> None:
    done = baton(role, *WORKER_FLAGS, "--set", "bogus=1")

    assert (done.returncode, done.stderr) == (2, "baton: Object contains unknown field `bogus`\n")


def test_a_worker_without_a_model_says_so() -> None:
    done = baton("decode")

    assert done.returncode == 2
    assert "missing required field `model`" in done.stderr


def test_a_fleet_whose_admin_token_cannot_be_had_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    done = baton("up", "--model", str(tmp_path), "--proxy-set", f"admin_token_file={tmp_path}/none")

    problem = f"baton: --proxy-set admin_token_file={tmp_path}/none: No such file or directory\n"
    assert (done.returncode, done.stderr) == (2, problem)


def test_a_proxy_without_workers_says_so() -> None:
    done = baton("proxy")

    assert done.returncode == 2
    assert "workers: at least one is needed" in done.stderr


def test_a_bad_key_of_a_proxy_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("workers: [{url: 'http://127.0.0.1:1', role: decoder}]\n")

    done = baton("proxy", "--config", str(file))

    assert done.returncode == 2
    assert done.stderr.startswith(f"baton: {file}: workers[0].role: ")


def test_up_refuses_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    done = baton("up", "--model", str(tmp_path))

    assert (done.returncode, done.stderr) == (2, f"baton: --model {tmp_path}: no config.json in there\n")


@pytest.mark.parametrize(
    ("settings", "guesses"),
    [
        (["drain_grace_s=1"], True),
        (["drain_grace_s=1", "run_ahead=true"], False),
        (["speculative.tokens=2"], False),
        (["speculative=null"], False),
    ],
)
def test_the_demo_model_guesses_ahead_unless_one_s_own_settings_say_how_to_run(
    settings: list[str], guesses: bool
) -> None:
    assert may_guess(settings) is guesses


def test_a_child_whose_parent_is_gone_does_not_start() -> None:
    done = baton("decode", *WORKER_FLAGS, "--parent-pid", "1")

    assert done.returncode == 1
    assert "the process that started this one (1) has ended" in done.stderr
