"""Where newcomers call on rank 0: one at a time, the others wait outside. Nothing here decides.

A thread listens. The loop asks for `caller` and is woken when one has come, has loaded or has hung up.
"""

import contextlib
import socket
import threading
from collections.abc import Callable

import msgspec

from .messages import FromNewcomer, Knock, Loaded, Refusal, Terms, ToNewcomer
from .watch import listen

KNOCK_S = 5.0
"""A caller that does not say what it wants within this time is hung up on."""
LONGEST_LINE = 1 << 16

_decoder: msgspec.json.Decoder[FromNewcomer] = msgspec.json.Decoder(Knock | Loaded)


class Caller:
    """A newcomer that would fit in."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.has_loaded = False

    def say(self, message: ToNewcomer) -> None:
        """Tell it something; one that has gone is noticed by the door."""
        with contextlib.suppress(OSError):
            self._connection.sendall(msgspec.json.encode(message) + b"\n")

    def refuse(self, reason: str) -> None:
        """Send it away."""
        self.say(Refusal(reason=reason))
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)


class Door:
    """Rank 0's ear for newcomers."""

    def __init__(self, host: str, terms: Terms, on_change: Callable[[], None]) -> None:
        """Listen on a free port.

        on_change  wakes the loop; called on the thread that listens
        """
        self._terms = terms
        self._on_change = on_change
        self._listener = listen(host)
        self.port = int(self._listener.getsockname()[1])
        self.caller: Caller | None = None
        self._thread = threading.Thread(target=self._run, name="door", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no longer; a caller that is left is hung up on."""
        caller = self.caller
        if caller is not None:
            caller.refuse("rank 0 has closed its door")
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join()
        self._listener.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):  # the listener was shut down
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self._attend(connection)

    def _attend(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, msgspec.DecodeError), connection.makefile("rb") as lines:
            connection.settimeout(KNOCK_S)
            knock = _decoder.decode(lines.readline(LONGEST_LINE))
            connection.settimeout(None)
            caller = Caller(connection)
            misfit = difference(self._terms, knock.terms) if isinstance(knock, Knock) else "nobody knocked"
            if misfit is not None:
                caller.refuse(misfit)
                return
            self._tell(caller)
            try:
                while line := lines.readline(LONGEST_LINE):
                    caller.has_loaded = isinstance(_decoder.decode(line), Loaded)
                    self._on_change()
            finally:
                self._tell(None)

    def _tell(self, caller: Caller | None) -> None:
        self.caller = caller
        self._on_change()


def difference(ours: Terms, theirs: Terms) -> str | None:
    """Say in what a newcomer differs that must be alike; None: in nothing."""
    pairs = zip(
        ours.__struct_fields__, msgspec.structs.astuple(ours), msgspec.structs.astuple(theirs), strict=True
    )
    differing = [f"{name}: {own!r} here, {other!r} there" for name, own, other in pairs if own != other]
    return f"it differs from the ranks in {'; '.join(differing)}" if differing else None
