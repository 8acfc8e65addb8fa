"""The port can be listened on."""

import socket

from baton.cli.free_port import free_port


def test_the_port_is_free() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[1]
