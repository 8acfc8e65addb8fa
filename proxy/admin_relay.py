"""Relays a request that is no completion to the admin application, by the legs that completions use."""

from .errors import unavailable
from .front import ClientConnection
from .hub import Hub
from .relay_leg import RelayLeg
from .request import ClientRequest, LegHead
from .routing.commands import Failure, Fault

TIMEOUT_S = 30.0


class AdminRelay:
    """One request on its way to the admin application. It is asked once: it lives in this process."""

    __slots__ = ("_client", "_head", "_hub", "_leg", "_request", "due")

    def __init__(self, hub: Hub, client: ClientConnection, request: ClientRequest) -> None:
        self._hub = hub
        self._client = client
        self._request = request
        self._head = LegHead(request)
        self.due = hub.loop.time() + TIMEOUT_S
        pool = hub.admin_pool
        head = self._head.build(
            pool.host_header, self._head.wanted_id, len(request.body), http_1_0=request.http_1_0
        )
        expected = request.method != b"HEAD"
        self._leg = RelayLeg(self, pool, (head, request.body), body_expected=expected)

    def begin(self) -> None:
        """Send it."""
        self._hub.watch.add(self)
        self._leg.start()

    # --- told by the leg

    def now(self) -> float:
        """Return the time on the loop's clock."""
        return self._hub.loop.time()

    def leg_answered(self) -> None:
        """Relay."""
        self._leg.relay_to(self._client.transport, self._lines())
        if self._client.stalled:
            self._leg.pause()

    leg_rejected = leg_answered

    def leg_failed(self, failure: Failure) -> None:
        """Relay an answer of any status; say so if there is none."""
        if self._leg.whole and self._leg.head is not None:
            self._client.transport.write(self._leg.answer_bytes(self._lines()))
            self.leg_ended()
            return
        error = unavailable(f"the admin application failed: {failure.detail}")
        keep = self._request.keep_alive
        self._client.transport.write(error.answer(request_id=self._head.wanted_id, close=not keep))
        self._finish(keep_alive=keep)

    def leg_resent(self) -> None:
        """Nothing to do: the answer is still to come."""

    def leg_ended(self) -> None:
        """The client has the whole answer."""
        head = self._leg.head
        stays = head is not None and (head.lets_client_stay or self._request.method == b"HEAD")
        self._finish(keep_alive=stays and self._request.keep_alive)

    def leg_broken(self, failure: Failure) -> None:
        """Cut: the framing shows the loss."""
        self._finish(keep_alive=False)

    # --- told by the client's connection and the watch

    def client_gone(self) -> None:
        """Drop it."""
        self._hub.watch.discard(self)
        self._leg.cancel()

    def pause(self) -> None:
        """Stop reading the answer."""
        if self._leg.relaying:
            self._leg.pause()

    def resume(self) -> None:
        """Read on."""
        if self._leg.relaying:
            self._leg.resume()

    def overdue(self, now: float) -> None:
        """Take no longer."""
        self._leg.fail(Failure(Fault.TIMEOUT, f"no answer within {TIMEOUT_S:g} s"))

    def _lines(self) -> bytes:
        lines = f"X-Request-Id: {self._head.wanted_id}\r\n"
        head = self._leg.head
        if not self._request.keep_alive and head is not None and not head.has(b"connection"):
            lines += "Connection: close\r\n"
        return lines.encode()

    def _finish(self, *, keep_alive: bool) -> None:
        self._hub.watch.discard(self)
        self._client.finished(keep_alive=keep_alive)
