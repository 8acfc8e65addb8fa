"""The proxy as a process: what it says, how it ends, and what it does not load."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import yaml

from baton.proxy.server import set_at_end

from .fakes import FakeWorker, chat, connected
from .house import pair

RUN = """
import sys
from pathlib import Path
from baton.proxy.config import load_config
from baton.proxy.server import run_proxy
run_proxy(load_config(Path(sys.argv[1])))
"""
LOADED = """
import sys
import baton.proxy.server
print([name for name in ("torch", "triton", "zmq", "numpy", "nixl") if name in sys.modules])
"""


async def python(*arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", *arguments, stdout=PIPE, stderr=PIPE
    )


@contextlib.asynccontextmanager
async def process(folder: Path, *workers: FakeWorker, port: int = 0) -> AsyncIterator[Process]:
    for worker in workers:
        await worker.start()
    config = {
        "port": port,
        "workers": [{"url": worker.url, "role": worker.role} for worker in workers],
        "drain_grace_s": 10.0,
    }
    file = folder / "fleet.yaml"
    await asyncio.to_thread(file.write_text, yaml.safe_dump(config))
    child = await python(RUN, str(file))
    try:
        async with asyncio.timeout(60):
            yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()
        for worker in workers:
            await worker.kill()


async def said(child: Process) -> Any:
    assert child.stdout is not None
    return json.loads(await child.stdout.readline())


async def test_it_says_where_it_listens_and_that_it_is_ready_and_drains_on_sigterm(tmp_path: Path) -> None:
    async with process(tmp_path, *pair()) as child:
        listening, ready = await said(child), await said(child)
        async with connected(listening["port"]) as client:
            await client.post(chat())
            answer = await client.answer()
            child.send_signal(signal.SIGTERM)
            ended = await client.at_end()
        status = await child.wait()

    assert (listening["event"], listening["host"], ready) == ("listening", "127.0.0.1", {"event": "ready"})
    assert (answer.text, ended, status) == ("one two", True, 0)


async def test_a_port_that_is_taken_is_one_clear_line_and_a_failure(tmp_path: Path) -> None:
    taken = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    async with process(tmp_path, *pair(), port=port) as child:
        line = await said(child)
        assert child.stderr is not None
        errors = await child.stderr.read()
        status = await child.wait()
    taken.close()

    assert line == {"event": "fatal", "message": f"cannot listen on 127.0.0.1:{port}: Address already in use"}
    assert status == 1
    assert b"Traceback" not in errors


async def test_it_loads_no_tensor_library() -> None:
    child = await python(LOADED)
    out, errors = await child.communicate()

    assert (out.strip(), errors) == (b"[]", b"")


async def test_a_policy_file_that_cannot_be_used_is_one_clear_line_and_a_failure(tmp_path: Path) -> None:
    policy, fleet = tmp_path / "policy.yaml", tmp_path / "fleet.yaml"
    config = {"policy": str(policy), "workers": [{"url": "http://127.0.0.1:1", "role": "decode"}]}
    await asyncio.to_thread(policy.write_text, "policy: pair_cost\nscales: {wait: -1}\n")
    await asyncio.to_thread(fleet.write_text, yaml.safe_dump(config))
    child = await python(RUN, str(fleet))
    out, errors = await child.communicate()

    assert child.returncode == 1
    line = json.loads(out)
    assert (line["event"], "scales.wait" in line["message"]) == ("fatal", True)
    assert b"Traceback" not in errors


async def test_a_pipe_that_has_ended_is_looked_at_once() -> None:
    reading, writing = os.pipe()
    ended = asyncio.Event()
    set_at_end(reading, ended)
    os.close(writing)
    async with asyncio.timeout(30):
        await ended.wait()

    assert not asyncio.get_running_loop().remove_reader(reading)
    os.close(reading)
