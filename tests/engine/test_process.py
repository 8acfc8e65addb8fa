"""Engine processes on a real checkpoint load, serve the model's tokens, hand KV over, and end cleanly."""

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from baton.engine.config import GraphsConfig, KvTransferConfig, Role, Verify, WorkerConfig
from baton.engine.messages import (
    CheckIntegrity,
    EngineFatal,
    EngineStats,
    FirstToken,
    Generate,
    IntegrityReport,
    Loading,
    PeerResult,
    RequestDone,
    SamplingParams,
)
from baton.engine.messages import ConnectPeer as Connect
from baton.kvtransfer.params import KvTransferParams
from support.checkpoints import make_deepseek_v3
from support.engine_processes import DEADLINE_S, EngineUnderTest
from support.oracle import load_oracle, oracle_greedy

PROMPTS = [
    [(i * k + 3 * k + 5) % 200 + 3 for i in range(length)] for k, length in enumerate((70, 3, 33, 16), 1)
]
NEW_TOKENS = 12


def config(model: Path, role: Role, **changes: object) -> WorkerConfig:
    settings: dict[str, object] = {
        "num_blocks": 65,
        "block_tokens": 8,
        "max_batched_tokens": 32,
        "max_num_seqs": 8,
        "threads": 1,
        "kv_transfer": KvTransferConfig(verify=Verify.CRC),
    }
    return WorkerConfig(model=str(model), role=role, **{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_deepseek_v3(tmp_path_factory.mktemp("model") / "tiny", seed=5)


@pytest.fixture(scope="module")
def expected(model: Path) -> list[list[int]]:
    oracle = load_oracle(model)
    return [oracle_greedy(oracle, prompt, NEW_TOKENS) for prompt in PROMPTS]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e")


@pytest.fixture
def pair(model: Path, folder: Path) -> Iterator[tuple[EngineUnderTest, EngineUnderTest]]:
    prefill = EngineUnderTest(config(model, Role.PREFILL, name="p0"), folder / "p")
    decode = EngineUnderTest(config(model, Role.DECODE), folder / "d")
    prefill.start()
    decode.start()
    yield prefill, decode
    prefill.close()
    decode.close()


def generate(name: str, prompt: list[int], kv_transfer: KvTransferParams | None = None) -> Generate:
    sampling = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0)
    return Generate(
        request_id=name, external_id=name, prompt_token_ids=prompt, sampling=sampling, kv_transfer=kv_transfer
    )


def assert_at_rest(engine: EngineUnderTest) -> None:
    engine.send(CheckIntegrity(call_id="check"))
    report = engine.wait_for(IntegrityReport)
    assert report.problems == []
    assert (report.leases, report.pulls, report.requests) == (0, 0, 0)
    assert (report.blocks.in_use, report.blocks.quarantined) == (0, 0)


def test_a_pair_hands_kv_over_and_gives_the_oracles_tokens(
    pair: tuple[EngineUnderTest, EngineUnderTest], expected: list[list[int]]
) -> None:
    prefill, decode = pair
    ready = prefill.ready()
    assert isinstance(prefill.received[0], Loading)
    decode.ready()
    decode.send(Connect(call_id="c", host=ready.kv_host, port=ready.kv_port))
    assert decode.wait_for(PeerResult).incarnation == ready.incarnation

    for index, prompt in enumerate(PROMPTS):
        prefill.send(generate(f"r{index}", prompt, KvTransferParams(do_remote_decode=True)))
    for index, prompt in enumerate(PROMPTS):
        done = prefill.wait_for(RequestDone, lambda m, name=f"r{index}": m.request_id == name)
        assert done.kv_transfer is not None
        assert done.kv_transfer.baton_prefill is not None
        assert done.kv_transfer.baton_prefill.worker == "p0"
        decode.send(generate(f"r{index}", prompt, done.kv_transfer))
    for index in range(len(PROMPTS)):
        decode.wait_for(RequestDone, lambda m, name=f"r{index}": m.request_id == name)
        first = decode.wait_for(FirstToken, lambda m, name=f"r{index}": m.request_id == name)
        assert not first.recomputed
        assert first.kv_bytes > 0
        assert decode.tokens_of(f"r{index}") == expected[index]
        assert prefill.tokens_of(f"r{index}") == expected[index][:1]
    all_prompts = sum(map(len, PROMPTS))
    prefill.wait_for(EngineStats, lambda m: (m.prompt_tokens, m.leases) == (all_prompts, 0))
    assert_at_rest(prefill)
    assert_at_rest(decode)
    assert decode.shut_down() == 0
    assert prefill.shut_down() == 0


def test_a_pair_hands_fp8_kv_over(model: Path, folder: Path) -> None:
    roles = {Role.PREFILL: "p", Role.DECODE: "d"}
    prefill, decode = (
        EngineUnderTest(config(model, role, fp8_kv=True), folder / name) for role, name in roles.items()
    )
    prefill.start()
    decode.start()
    ready = prefill.ready()
    decode.ready()
    decode.send(Connect(call_id="c", host=ready.kv_host, port=ready.kv_port))
    assert decode.wait_for(PeerResult).error is None

    prefill.send(generate("r", PROMPTS[0], KvTransferParams(do_remote_decode=True)))
    decode.send(generate("r", PROMPTS[0], prefill.wait_for(RequestDone).kv_transfer))

    decode.wait_for(RequestDone)
    first = decode.wait_for(FirstToken)
    assert not first.recomputed
    assert first.kv_bytes == -(-len(PROMPTS[0]) // ready.block_tokens) * ready.block_bytes
    assert len(decode.tokens_of("r")) == NEW_TOKENS
    prefill.close()
    decode.close()


def test_an_engine_alone_serves_whole_requests_and_comes_to_rest(
    model: Path, folder: Path, expected: list[list[int]]
) -> None:
    engine = EngineUnderTest(config(model, Role.DECODE), folder / "d")
    engine.start()
    engine.ready()
    for index, prompt in enumerate(PROMPTS):
        engine.send(generate(f"r{index}", prompt))
    for index in range(len(PROMPTS)):
        engine.wait_for(RequestDone, lambda m, name=f"r{index}": m.request_id == name)

    assert [engine.tokens_of(f"r{index}") for index in range(len(PROMPTS))] == expected
    assert_at_rest(engine)
    assert engine.shut_down() == 0
    engine.close()


def test_an_engine_that_rehearses_its_graphs_gives_the_same_tokens_and_tells_what_it_captured(
    model: Path, folder: Path, expected: list[list[int]]
) -> None:
    graphs = GraphsConfig(rehearse=True, batch_sizes=[2, 4], prompt_sizes=[8, 32])
    engine = EngineUnderTest(config(model, Role.DECODE, graphs=graphs), folder / "d")
    engine.start()

    assert engine.ready().captured_batch_sizes == [2, 4]
    stages = [(m.done, m.total) for m in engine.received if isinstance(m, Loading) and m.stage == "graphs"]
    assert stages == [(done, 4) for done in range(5)]
    for index, prompt in enumerate(PROMPTS):
        engine.send(generate(f"r{index}", prompt))
    for index in range(len(PROMPTS)):
        engine.wait_for(RequestDone, lambda m, name=f"r{index}": m.request_id == name)
    assert [engine.tokens_of(f"r{index}") for index in range(len(PROMPTS))] == expected
    assert engine.shut_down() == 0
    engine.close()


def test_an_engine_that_cannot_load_says_why(folder: Path) -> None:
    engine = EngineUnderTest(config(folder / "nowhere", Role.DECODE), folder / "d")
    engine.start()

    assert str(folder / "nowhere") in engine.wait_for(EngineFatal).message
    assert engine.exit_status() == 1
    engine.close()


DIES_AFTER_ITS_CHILD_IS_READY = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stderr=subprocess.DEVNULL)
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_an_engine_does_not_outlive_its_frontend(model: Path, folder: Path) -> None:
    engine = EngineUnderTest(config(model, Role.DECODE), folder / "d")
    with subprocess.Popen(
        [sys.executable, "-c", DIES_AFTER_ITS_CHILD_IS_READY, *engine.command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        watched = os.pidfd_open(int(parent.stdout.readline()))
        engine.ready()
        parent.kill()

    poll = select.poll()
    poll.register(watched, select.POLLIN)
    assert poll.poll(DEADLINE_S * 1000), "the engine is still there"
    os.close(watched)
    engine.close()
