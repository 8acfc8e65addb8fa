"""Which network interface a rank's transfers leave by: the one that reaches rank 0.

Left alone, gloo binds to whatever this host's name resolves to, which is often the loopback address, where
other hosts cannot call. torch takes the interface's name from `GLOO_SOCKET_IFNAME`; an operator's own setting
of it is respected.
"""

import fcntl
import logging
import os
import socket
import struct

GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"

_SIOCGIFADDR = 0x8915  # Linux, netdevice(7): the first IPv4 address of an interface
_ADDRESS = slice(20, 24)

logger = logging.getLogger(__name__)


def bind_gloo(host: str, port: int) -> None:
    """Let the groups that this process joins from now on listen where rank 0 at `host` can call."""
    address = own_address(host, port)
    name = interface_with(address)
    if name is None:
        logger.warning("no interface has the address %s; gloo chooses one by the host's name", address)
        return
    os.environ.setdefault(GLOO_INTERFACE, name)


def own_address(host: str, port: int) -> str:
    """Return this host's address on the way to `host`; nothing is sent. Raises `OSError` without a way."""
    [(family, kind, _, _, target), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    with socket.socket(family, kind) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


def interface_with(address: str) -> str | None:
    """Return the name of the interface whose first IPv4 address this is."""
    for _, name in socket.if_nameindex():
        if _first_address(name) == address:
            return name
    return None


def _first_address(interface: str) -> str | None:
    request = struct.pack("256s", interface.encode())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, request)
        except OSError:  # it has none
            return None
    return socket.inet_ntoa(answer[_ADDRESS])
