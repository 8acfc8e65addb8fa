"""The proxy's tests run on the event loop that the proxy runs on. Some compile its parts in C first."""

import asyncio
import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest
import uvloop

from baton.tools.compile_proxy import compile_in_c


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def chunk_relay(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The relay in C, compiled from the source that stands there."""
    if sys.platform != "linux":
        pytest.skip("no epoll")
    return _compiled("chunk_relay", tmp_path_factory)


@pytest.fixture(scope="session")
def top_level(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """What splits bodies in C, likewise."""
    return _compiled("top_level", tmp_path_factory)


@pytest.fixture(scope="session")
def prompt_keys(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """What hashes prompts in C, likewise."""
    return _compiled("routing.prompt_keys", tmp_path_factory)


def _compiled(name: str, folders: pytest.TempPathFactory) -> ModuleType:
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("no C compiler")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("no headers of Python's")
    library = compile_in_c(name, folders.mktemp(name))
    spec = importlib.util.spec_from_file_location(f"baton.proxy.{name}", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def relays_natively(chunk_relay: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies that are started have the relay in C."""
    monkeypatch.setitem(sys.modules, "baton.proxy.chunk_relay", chunk_relay)
