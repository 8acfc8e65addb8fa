"""What a request costs the proxy without kernel and event loop: sockets are objects that only collect.

    python -P -m baton.bench.proxy.request_path req200     # microseconds of CPU, the best of many blocks
    valgrind --tool=callgrind --instr-atstart=no \\
        python -P -m baton.bench.proxy.request_path req200 --instructions

Client and workers are played by this process: their answers were recorded from the mock workers before. The
times of a busy machine swing by half; instructions do not, and callgrind says whose they are. The proxy's
clock is a counter here, so that what learns at most every so often learns as often as in service. Some 25,000
instructions a request are those of the objects that stand in for sockets.
"""

import argparse
import asyncio
import itertools
import os
import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import msgspec
import uvloop

from ...proxy.config import ProxyConfig, WorkerAddress
from ...proxy.front import ClientConnection
from ...proxy.routing.fleet import Role
from ...proxy.server import Proxy, running_proxy, spare_the_collector
from ...proxy.upstream import Connection
from .compiled import Ports, compile_program, running_mock_fleet
from .cores import share_cores
from .systems import ALWAYS_SPLIT
from .workloads import NUMBER_PLACE, WORKLOADS, Workload

BLOCK = 200
"""Requests between two looks at the clock"""
REQUEST_S = 1e-4
"""How long a request takes on the proxy's clock; it is asked ten times for each"""
SILENCE_S = 0.2
HEAD = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n"
)


class Socket:
    """Stands in for a transport: what is written is told to somebody."""

    def __init__(self, written: Callable[[], None]) -> None:
        self._written = written

    def write(self, data: bytes) -> None:
        """Take it."""
        self._written()

    def writelines(self, pieces: list[bytes]) -> None:
        """Take them."""
        self._written()

    def is_closing(self) -> bool:
        """It never does."""
        return False

    def get_write_buffer_size(self) -> int:
        """Nothing waits."""
        return 0

    def pause_reading(self) -> None:
        """Nothing comes by itself."""

    def resume_reading(self) -> None:
        """Nothing comes by itself."""

    def close(self) -> None:
        """Nothing is open."""

    def abort(self) -> None:
        """Nothing is open."""


class Requests:
    """Sends requests through one proxy, one after the other, and answers for its workers."""

    def __init__(self, proxy: Proxy, body: bytes, answers: dict[Role, bytes]) -> None:
        self._waiting: list[tuple[Connection, bytes]] = []
        self._numbers = itertools.count()
        self._release = proxy.hub.cork.release
        self.answered = 0
        ticks = itertools.count()
        start_s = proxy.hub.now() + 1000.0  # nobody is new any more
        proxy.hub.now = lambda: start_s + next(ticks) * REQUEST_S / 10
        for name, pool in proxy.hub.pools.items():
            connection = Connection(pool)
            answer = answers[proxy.hub.router.fleet.workers[name].role]
            connection.connection_made(_socket(partial(self._waiting.append, (connection, answer))))
            connection.give_back()
        self._client = cast(ClientConnection, proxy.accept())
        self._client.connection_made(_socket(self._note))
        request = HEAD % len(body) + body
        self._before, _, self._after = request.partition(NUMBER_PLACE.encode())

    def send(self) -> None:
        """Have one request served to its end."""
        number = b"%0*d" % (len(NUMBER_PLACE), next(self._numbers))
        self._client.data_received(self._before + number + self._after)
        self._release()
        while self._waiting:
            connection, answer = self._waiting.pop()
            connection.data_received(answer)
            self._release()

    def _note(self) -> None:
        self.answered += 1


def _socket(written: Callable[[], None]) -> asyncio.Transport:
    return cast(asyncio.Transport, Socket(written))


async def record(ports: Ports, body: bytes) -> dict[Role, bytes]:
    """Return what a mock worker of either role answers to such a request."""
    fields: dict[str, Any] = msgspec.json.decode(body)
    ask: dict[str, Any] = {"stream": False, "max_tokens": 1, "kv_transfer_params": {"do_remote_decode": True}}
    prefill = await _exchange(ports.prefill[0], msgspec.json.encode(fields | ask))
    offer = msgspec.json.decode(prefill.partition(b"\r\n\r\n")[2])["kv_transfer_params"]
    decode = await _exchange(ports.decode[0], msgspec.json.encode(fields | {"kv_transfer_params": offer}))
    return {Role.PREFILL: prefill, Role.DECODE: decode}


async def _exchange(port: int, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD % len(body) + body)
    answer = b""
    try:
        while True:
            async with asyncio.timeout(SILENCE_S):
                answer += await reader.read(1 << 16)
    except TimeoutError:
        return answer
    finally:
        writer.close()


async def run(workload: Workload, arguments: argparse.Namespace) -> None:
    """Measure, and print the figure."""
    body = workload.body()
    async with running_mock_fleet(2, 2, share_cores()) as fleet:
        await fleet.follow(workload)
        roles = ((Role.PREFILL, fleet.ports.prefill), (Role.DECODE, fleet.ports.decode))
        workers = [
            WorkerAddress(url=f"http://127.0.0.1:{port}", role=role)
            for role, ports in roles
            for port in ports
        ]
        config = ProxyConfig(port=0, policy=str(ALWAYS_SPLIT), workers=tuple(workers))
        answers = await record(fleet.ports, body)
        async with running_proxy(config) as proxy:
            await proxy.until_ready(complete=True)
            spare_the_collector()
            requests = Requests(proxy, body, answers)
            await _blocks(requests, 2)
            if arguments.instructions:
                _callgrind("on")
            times = await _blocks(requests, arguments.blocks)
            if arguments.instructions:
                _callgrind("off")
            assert requests.answered == BLOCK * (arguments.blocks + 2)
            least_us = min(times) / BLOCK * 1e6
            print(f"{workload.name}: {least_us:.1f} us a request, {arguments.blocks} blocks of {BLOCK}")


async def _blocks(requests: Requests, count: int) -> list[float]:
    times = []
    for _ in range(count):
        began = time.thread_time()
        for _ in range(BLOCK):
            requests.send()
        times.append(time.thread_time() - began)
        await asyncio.sleep(0)
    return times


def _callgrind(state: str) -> None:
    subprocess.run(
        ["callgrind_control", "-i", state, str(os.getpid())], check=True, stdout=subprocess.DEVNULL
    )


def main() -> None:
    """Run from the command line."""
    known = {workload.name: workload for workload in WORKLOADS if workload.chunks == 1}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", choices=known)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--instructions", action="store_true", help="count them; run under callgrind")
    arguments = parser.parse_args()
    compile_program("mock_worker")
    uvloop.run(run(known[arguments.workload], arguments))


if __name__ == "__main__":
    main()
