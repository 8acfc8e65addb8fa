"""Ports of the loopback address that nobody uses now, for children that must agree on some beforehand."""

import contextlib
import socket


def free_ports(count: int) -> tuple[int, ...]:
    """Return different ones; somebody else may still take one before the children do."""
    with contextlib.ExitStack() as held:
        servers = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return tuple(int(server.getsockname()[1]) for server in servers)
