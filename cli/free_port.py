"""A port of the loopback address that nobody uses now, for children that must agree on one beforehand."""

import socket


def free_port() -> int:
    """Return it; somebody else may still take it before the children do."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
