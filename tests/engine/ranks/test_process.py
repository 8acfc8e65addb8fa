"""Engine processes that share a model's experts serve one engine's tokens, and end together."""

import itertools
import socket
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from baton.engine.config import KvTransferConfig, RanksConfig, Role, Transport, WorkerConfig
from baton.engine.messages import (
    EngineFatal,
    EngineReady,
    EngineStats,
    Generate,
    LeaveRanks,
    LeaveResult,
    Loading,
    RankStanding,
    RequestDone,
    RequestFailed,
    SamplingParams,
    Shutdown,
)
from baton.engine.models import load_model
from support.checkpoints import make_deepseek_v3
from support.driver import Driver
from support.engine_processes import EngineUnderTest
from support.skewed import make_skewed

PROMPTS = [[(i * k + 3 * k + 5) % 200 + 3 for i in range(n)] for k, n in enumerate((70, 3, 33, 16), 1)]
NEW_TOKENS = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_deepseek_v3(tmp_path_factory.mktemp("model") / "tiny", seed=5)


@pytest.fixture(scope="module")
def expected(model: Path) -> list[list[int]]:
    driver = Driver(load_model(model))
    return driver.generate([driver.sequence(prompt) for prompt in PROMPTS], NEW_TOKENS)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def settings_of(model: Path) -> dict[str, Any]:
    return {
        "model": str(model),
        "role": Role.DECODE,
        "num_blocks": 129,
        "block_tokens": 8,
        "max_batched_tokens": 32,
        "max_num_seqs": 8,
        "threads": 1,
        "stats_interval_s": 0.05,
        "kv_transfer": KvTransferConfig(transport=Transport.SOCKET),
    }


class RanksUnderTest:
    """Engines of one group."""

    def __init__(
        self, model: Path, size: int, folder: Path, *, run_ahead: bool = False, **settings: Any
    ) -> None:
        port = free_port()
        self.engines = [
            EngineUnderTest(
                WorkerConfig(
                    **settings_of(model),
                    run_ahead=run_ahead,
                    ranks=RanksConfig(rank=rank, size=size, port=port, timeout_s=25.0, **settings),
                ),
                folder / str(rank),
            )
            for rank in range(size)
        ]
        for engine in self.engines:
            engine.start()

    def close(self) -> None:
        for engine in self.engines:
            engine.close()


BALANCING = {"redundant_experts": 3, "balance_interval_steps": 24, "balance_window_steps": 24}


@pytest.fixture
def balancing(tmp_path: Path) -> Iterator[RanksUnderTest]:
    """Two ranks of a model with a favourite expert."""
    group = RanksUnderTest(make_skewed(tmp_path / "skewed"), 2, tmp_path, **BALANCING)
    yield group
    group.close()


@pytest.fixture
def ranks(model: Path, tmp_path: Path) -> Iterator[RanksUnderTest]:
    group = RanksUnderTest(model, 2, tmp_path)
    yield group
    group.close()


def ask(engine: EngineUnderTest, request_id: str, prompt: list[int], count: int = NEW_TOKENS) -> None:
    sampling = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True)
    engine.send(
        Generate(request_id=request_id, external_id=request_id, prompt_token_ids=prompt, sampling=sampling)
    )


def answer(engine: EngineUnderTest, request_id: str) -> list[int]:
    engine.wait_for(RequestDone, lambda done: done.request_id == request_id)
    return engine.tokens_of(request_id)


def test_ranks_serve_one_engines_tokens_and_end_together(
    ranks: RanksUnderTest, expected: list[list[int]]
) -> None:
    first, second = ranks.engines
    groups = {engine.ready().lockstep_group for engine in ranks.engines}
    assert len(groups) == 1
    assert None not in groups

    ask(first, "alone", PROMPTS[0])  # the other rank sleeps and is rung
    assert answer(first, "alone") == expected[0]
    for request_id, engine, index in (("a", first, 1), ("b", second, 2), ("c", second, 3)):
        ask(engine, request_id, PROMPTS[index])
    assert answer(first, "a") == expected[1]
    assert answer(second, "b") == expected[2]
    assert answer(second, "c") == expected[3]
    totals = {m.total for engine in ranks.engines for m in engine.received if isinstance(m, Loading)}
    assert len(totals) == 1  # both read as much: their half of the experts
    for engine in ranks.engines:
        engine.send(Shutdown(grace_s=10.0))
    assert [engine.exit_status() for engine in ranks.engines] == [0, 0]


def test_ranks_even_their_experts_load_out_while_they_serve_and_say_so(
    balancing: RanksUnderTest, tmp_path: Path
) -> None:
    driver, tokens = Driver(load_model(tmp_path / "skewed")), 90
    expected = driver.generate([driver.sequence(prompt) for prompt in PROMPTS], tokens)
    for engine in balancing.engines:
        engine.ready()

    for engine in balancing.engines:
        for index, prompt in enumerate(PROMPTS):
            ask(engine, str(index), prompt, tokens)

    for engine in balancing.engines:
        assert [answer(engine, str(index)) for index in range(len(PROMPTS))] == expected
        found = [
            engine.wait_for(EngineStats, is_placed),
            engine.wait_for(EngineStats, lambda stats: is_placed(stats) and measured(stats) >= 1 / 1.15),
        ]
        assert measured(found[0]) < 1 / 1.15


def is_placed(stats: EngineStats) -> bool:
    return stats.expert_balance is not None


def measured(stats: EngineStats) -> float:
    assert stats.expert_balance is not None
    return stats.expert_balance.measured


@pytest.fixture
def three(model: Path, tmp_path: Path) -> Iterator[RanksUnderTest]:
    group = RanksUnderTest(model, 3, tmp_path, redundant_experts=1)
    yield group
    group.close()


def test_a_group_goes_on_without_a_rank_that_leaves(
    three: RanksUnderTest, model: Path, expected: list[list[int]]
) -> None:
    driver = Driver(load_model(model))
    [long_answer] = driver.generate([driver.sequence(PROMPTS[1])], 200)
    leaving, *staying = three.engines  # rank 0, where the others met
    for engine in three.engines:
        engine.ready()
    for engine in staying:
        ask(engine, "long", PROMPTS[1], count=200)
    ask(leaving, "last", PROMPTS[2])

    leaving.send(LeaveRanks())
    leaving.send(Shutdown(grace_s=50.0))

    assert answer(leaving, "last") == expected[2]
    assert leaving.exit_status() == 0
    for engine in staying:
        assert answer(engine, "long") == long_answer
        ask(engine, "new", PROMPTS[0])
    assert [answer(engine, "new") for engine in staying] == [expected[0]] * 2
    for engine in staying:
        engine.send(Shutdown(grace_s=10.0))
    assert [engine.exit_status() for engine in staying] == [0, 0]


class Frontend:
    """What a newcomer asks of a worker: where its ranks meet, as its engine last told."""

    def __init__(self, engine: EngineUnderTest) -> None:
        self._engine = engine
        front = self

        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(msgspec.json.encode({"ranks": front.standing()}))

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def standing(self) -> RankStanding:
        told = [m.ranks for m in self._engine.received if isinstance(m, EngineStats)]
        return next(ranks for ranks in reversed(told) if ranks is not None)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def ahead(model: Path, tmp_path: Path) -> Iterator[RanksUnderTest]:
    """Two ranks that decide a step while the one before it is computed."""
    group = RanksUnderTest(model, 2, tmp_path, run_ahead=True)
    yield group
    group.close()


@pytest.fixture
def page(ahead: RanksUnderTest) -> Iterator[Frontend]:
    for engine in ahead.engines:
        engine.ready()
        engine.wait_for(EngineStats, lambda stats: stats.ranks is not None)
    frontend = Frontend(ahead.engines[1])
    yield frontend
    frontend.close()


@pytest.fixture
def newcomer(model: Path, tmp_path: Path, page: Frontend) -> Iterator[EngineUnderTest]:
    engine = EngineUnderTest(WorkerConfig(**settings_of(model), join=page.url), tmp_path / "newcomer")
    yield engine
    engine.close()


def serve(engines: list[EngineUnderTest], expected: list[list[int]]) -> None:
    """Ask all prompts of all engines, and compare."""
    names = {index: uuid.uuid4().hex for index in range(len(PROMPTS))}
    for engine, (index, name) in itertools.product(engines, names.items()):
        ask(engine, name, PROMPTS[index])
    for engine, (index, name) in itertools.product(engines, names.items()):
        assert answer(engine, name) == expected[index]


def test_a_newcomer_takes_its_share_while_the_others_serve_and_the_first_may_leave(
    ahead: RanksUnderTest, newcomer: EngineUnderTest, expected: list[list[int]]
) -> None:
    first, second = ahead.engines

    newcomer.start()
    while not newcomer.has_said(EngineReady):
        serve(ahead.engines, expected)

    assert newcomer.ready().lockstep_group == first.ready().lockstep_group
    serve([first, second, newcomer], expected)
    ask(first, "cut", PROMPTS[1], count=800)
    first.send(LeaveRanks())
    first.send(Shutdown(grace_s=0.0))  # what it has left is failed, but it takes steps until it can go
    while not first.has_said(LeaveResult):
        serve([second, newcomer], expected)
    assert first.wait_for(RequestFailed).request_id == "cut"
    assert first.wait_for(LeaveResult).stays_because is None
    assert first.exit_status() == 0
    serve([second, newcomer], expected)
    for engine in (second, newcomer):
        engine.send(Shutdown(grace_s=10.0))
    assert [engine.exit_status() for engine in (second, newcomer)] == [0, 0]


def test_a_newcomer_that_dies_on_its_way_in_changes_nothing(
    ahead: RanksUnderTest, newcomer: EngineUnderTest, expected: list[list[int]]
) -> None:
    newcomer.start()
    newcomer.wait_for(Loading)  # it has met the ranks by now
    newcomer.kill()

    serve(ahead.engines, expected)
    for engine in ahead.engines:
        engine.send(Shutdown(grace_s=10.0))
    assert [engine.exit_status() for engine in ahead.engines] == [0, 0]


def test_a_group_that_cannot_read_its_new_experts_goes_on_as_it_was(
    three: RanksUnderTest, model: Path, expected: list[list[int]]
) -> None:
    leaving = three.engines[0]
    for engine in three.engines:
        engine.ready()
    [weights] = model.glob("*.safetensors")
    hidden = weights.rename(weights.with_suffix(".hidden"))

    leaving.send(LeaveRanks())
    leaving.send(Shutdown(grace_s=0.0))

    assert leaving.wait_for(LeaveResult).stays_because is not None
    hidden.rename(weights)
    serve(three.engines, expected)


def test_a_rank_that_is_killed_brings_its_group_down_by_name(ranks: RanksUnderTest) -> None:
    killed, survivor = ranks.engines
    for engine in ranks.engines:
        engine.ready()
    ask(survivor, "long", PROMPTS[1], count=200)

    killed.kill()

    fatal = survivor.wait_for(EngineFatal)
    assert fatal.message == "GroupFailedError: rank 0 of 2 has ended, and its group with it"
    assert survivor.exit_status() == 1
