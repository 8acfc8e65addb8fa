"""Free ports can be listened on, and differ."""

import socket

from baton.cli.free_port import free_ports


def test_they_differ_and_can_be_listened_on() -> None:
    ports = free_ports(20)

    assert len(set(ports)) == 20
    for port in ports:
        with socket.create_server(("127.0.0.1", port)) as server:
            assert server.getsockname()[1] == port
