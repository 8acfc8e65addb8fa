"""All threads compute, but torch's few decode rows get one fewer, unless the configuration says otherwise."""

from collections.abc import Iterator

import pytest
import torch

from baton.engine import threads as engine_threads
from baton.engine.config import Role, WorkerConfig
from baton.engine.threads import MANY_ROWS, ComputeThreads


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_threads, "library", lambda: None)


@pytest.fixture
def with_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_threads, "library", object)


def config(**changes: object) -> WorkerConfig:
    return WorkerConfig(model="m", role=Role.DECODE, **changes)  # type: ignore[arg-type]


@pytest.mark.usefixtures("with_compiler")
@pytest.mark.parametrize("rows", [1, MANY_ROWS])
def test_operations_in_cpp_get_all_threads(rows: int) -> None:
    ComputeThreads.of(config(threads=3)).use_for_decode(rows)

    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize(("configured", "decode"), [(1, 1), (2, 1), (8, 7)])
def test_decode_leaves_a_thread_to_the_frontend_where_there_are_several(configured: int, decode: int) -> None:
    assert ComputeThreads.of(config(threads=configured)) == ComputeThreads(configured, decode)


def test_decode_threads_can_be_chosen() -> None:
    assert ComputeThreads.of(config(threads=2, decode_threads=2)) == ComputeThreads(2, 2)


@pytest.mark.usefixtures("without_compiler")
def test_without_a_word_on_it_torch_chooses() -> None:
    torch.set_num_threads(3)

    assert ComputeThreads.of(config()) == ComputeThreads(3, 2)


def test_each_phase_computes_with_its_own_threads() -> None:
    threads = ComputeThreads(3, 2)

    threads.use_for_prompts()
    assert torch.get_num_threads() == 3

    threads.use_for_decode()
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize(("rows", "used"), [(1, 2), (MANY_ROWS - 1, 2), (MANY_ROWS, 3), (4 * MANY_ROWS, 3)])
def test_many_decode_rows_get_all_threads(rows: int, used: int) -> None:
    ComputeThreads.of(config(threads=3)).use_for_decode(rows)

    assert torch.get_num_threads() == used


@pytest.mark.parametrize("rows", [1, MANY_ROWS])
def test_chosen_decode_threads_hold_for_any_number_of_rows(rows: int) -> None:
    ComputeThreads.of(config(threads=3, decode_threads=1)).use_for_decode(rows)

    assert torch.get_num_threads() == 1
