"""A served application whose engine is a fake: the real HTTP, the real socket, scripted tokens."""

from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest

from baton.engine.api.frontend import open_tokenizer
from baton.engine.config import Role, WorkerConfig
from baton.engine.text.tokenizer import Tokenizer
from support.served_worker import Served, serve
from support.tokenizers import write_tokenizer


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> WorkerConfig:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    folder.mkdir()
    write_tokenizer(folder)
    return WorkerConfig(model=str(folder), role=Role.DECODE, max_body_bytes=64 * 1024)


@pytest.fixture(scope="session")
def tokenizer(config: WorkerConfig) -> Tokenizer:
    return open_tokenizer(config)


@pytest.fixture
async def loading(config: WorkerConfig, tokenizer: Tokenizer, tmp_path: Path) -> AsyncIterator[Served]:
    """A worker whose engine is not there yet."""
    async with serve(config, tokenizer, tmp_path / "ipc") as served:
        yield served


@pytest.fixture
async def served(loading: Served) -> AsyncIterator[Served]:
    """A worker that serves; after the test nothing may be left in its engine."""
    await loading.start_engine()
    yield loading
    await loading.until(lambda engine: not engine.running)

    assert loading.engine.violations == []


@pytest.fixture
async def client(served: Served) -> AsyncIterator[openai.AsyncOpenAI]:
    """The unmodified client library, without its retries."""
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as made:
        yield made
