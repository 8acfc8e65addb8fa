"""Safety nets of the whole suite: one compute thread, and an event loop that may not block.

Fakes and builders that several folders share live in `tests/support/` and are imported as `support.<name>`.
"""

import inspect
import os
from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

# Before anything imports torch, here and in child processes: two cores are shared by all tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if not torch.cuda.is_available():
    # Triton reads it once, when whoever is first imports it: kernels run in its interpreter without a GPU.
    os.environ["TRITON_INTERPRET"] = "1"

WATCHED = [
    "baton.cli",
    "baton.decode_worker",
    "baton.engine",
    "baton.kvtransfer",
    "baton.prefill_worker",
    "baton.proxy",
]


@pytest.fixture(autouse=True)
def blockbuster(request: pytest.FixtureRequest) -> Iterator[BlockBuster | None]:
    """Fail an asynchronous test in which the package's code blocks the event loop."""
    test = request.node
    if not isinstance(test, pytest.Function) or not inspect.iscoroutinefunction(test.obj):
        yield None
        return
    with blockbuster_ctx(WATCHED) as detector:
        # A log line goes to a terminal or a pipe that the process does not wait for in earnest.
        detector.functions["io.TextIOWrapper.write"].can_block_in("logging/__init__.py", {"emit"})
        # The import of a module happens once; asyncio itself resolves names and opens its self-pipe.
        for function in ("os.stat", "io.BufferedReader.read", "io.TextIOWrapper.read"):
            detector.functions[function].can_block_in("<frozen importlib._bootstrap>", {"_find_and_load"})
        yield detector
