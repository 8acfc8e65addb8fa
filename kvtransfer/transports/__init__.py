"""Ways to move blocks between pools: one protocol (`base`), three transports.

A process uses one of them: NIXL and UCXX each bring a UCX of their own, and share its environment variables.
"""

from collections.abc import Callable

from .base import Transport, TransportFactory, TransportUnavailableError

TRANSPORTS = ("nixl", "ucxx", "socket")


def transport_factory(name: str, *, host: str) -> TransportFactory:
    """Return what makes the named transport; `host` is where those that listen themselves listen.

    The library behind it is imported when the transport is made, and its absence is a
    `TransportUnavailableError`. Raises `ValueError` for a name that is not in `TRANSPORTS`.
    """
    if name not in TRANSPORTS:
        raise ValueError(f"transport: {name!r} is none of {', '.join(TRANSPORTS)}")

    def make(incarnation: str, wake: Callable[[], None]) -> Transport:
        try:
            return _make(name, incarnation, wake, host)
        except ImportError as error:
            raise TransportUnavailableError(f"transport {name}: {error}") from error

    return make


def _make(name: str, incarnation: str, wake: Callable[[], None], host: str) -> Transport:
    # Imported here and not above: each loads a large native library, and only one may be loaded.
    if name == "nixl":
        from .nixl import NixlTransport  # noqa: PLC0415

        return NixlTransport(incarnation, wake)
    if name == "ucxx":
        from .ucxx import UcxxTransport  # noqa: PLC0415

        return UcxxTransport(incarnation, wake, host=host)
    from .sockets import SocketTransport  # noqa: PLC0415

    return SocketTransport(incarnation, wake, host=host)
