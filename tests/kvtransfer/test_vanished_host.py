"""A read of a host that vanishes ends, though no packet says so: two network namespaces play the hosts."""

import subprocess
from collections.abc import Iterator

import pytest

from support.hosts import ADDRESSES, Host, joined_hosts

SERVER = """
import socket, sys
listener = socket.create_server((sys.argv[1], 0))
print(listener.getsockname()[1], flush=True)
reader, _ = listener.accept()
asked = reader.recv(8, socket.MSG_WAITALL)
print(len(asked), flush=True)
sys.stdin.read()
"""

READER = """
import ctypes, queue, sys
import msgspec
from baton.kvtransfer.service import PoolRegion
from baton.kvtransfer.transports import sockets
sockets.KEEPALIVE_S, sockets.VANISHED_S = 1, 2
woken = queue.SimpleQueue()
transport = sockets.SocketTransport("reader", lambda: woken.put(None), host=sys.argv[1])
pool = ctypes.create_string_buffer(4096)
region = PoolRegion(address=ctypes.addressof(pool), block_bytes=4096, num_blocks=1)
transport.register(region)
where = sockets.SocketDescription(incarnation="server", host=sys.argv[2], port=int(sys.argv[3]))
transport.add_peer("server", msgspec.msgpack.encode(where), region)
transport.read(1, "server", [0], [0])
woken.get()
print(transport.poll()[0].error, flush=True)
"""


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    with joined_hosts() as both:
        yield both


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_read_whose_host_vanishes_before_it_answers_fails(hosts: list[Host]) -> None:
    with hosts[1].run_python(SERVER, ADDRESSES[1]) as server:
        port = line_of(server)
        with hosts[0].run_python(READER, ADDRESSES[0], ADDRESSES[1], port) as reader:
            assert line_of(server) == "8"  # the request: one id and their count

            hosts[1].vanish()

            try:
                said, _ = reader.communicate(timeout=30)
            finally:
                reader.kill()
                server.kill()

    assert said.strip() == f"{ADDRESSES[1]}:{port}: [Errno 110] Connection timed out"
