"""The shell around one request's life: sends its legs, keeps its deadlines, and talks to its client.

It decides nothing: `routing.life` does, and this carries the commands out.
"""

import logging
from typing import assert_never

import msgspec

from .added import added_lines, last_event, refusal
from .body import BodyError, RequestBody
from .errors import ApiError, unavailable, upstream_failed
from .front import ClientConnection
from .hub import Hub
from .intake import life_of
from .leg import Leg, PrefillLeg
from .notes import note_end, note_prefill, note_stream
from .prefill_answer import read_prefill_answer
from .relay_leg import RelayLeg
from .request import ClientRequest, LegHead
from .routing.commands import (
    ANSWERED,
    Abort,
    Command,
    Failure,
    Fault,
    Probe,
    Refuse,
    Relay,
    RelayLastAnswer,
    SendBoth,
    SendDecode,
    SendPrefill,
    TellBroken,
)
from .routing.fleet import Worker
from .routing.life import Phase, RequestLife
from .routing.ticket import Standing
from .routing.verdict import Refuse as TurnAway
from .routing.verdict import Start
from .terms import refusal as admission_refusal
from .upstream import Pieces, Pool
from .watch import NEVER

logger = logging.getLogger(__name__)


class Exchange:
    """One completion being served."""

    __slots__ = (
        "_arrived_at", "_body", "_client", "_decode", "_head", "_hub", "_kv", "_last_answer",
        "_leg", "_leg_started_at", "_life", "_prefill", "_request", "_seen_bytes", "_stalled_at", "due",
        "now", "request_id",
    )  # fmt: skip

    def __init__(self, hub: Hub, client: ClientConnection, request: ClientRequest) -> None:
        self._hub = hub
        self._client = client
        self._request = request
        self._head = LegHead(request)
        self.request_id = self._head.wanted_id
        """What the client calls it: workers may be told a variant."""
        self._body: RequestBody | None = None
        self._life: RequestLife | None = None
        self._leg: PrefillLeg | RelayLeg | None = None
        self._kv: msgspec.Raw | None = None
        self._prefill: Worker | None = None
        self._decode: Worker | None = None
        self._last_answer: PrefillLeg | RelayLeg | None = None
        self.now = hub.now
        """Returns the time on the loop's clock."""
        self._arrived_at = self._leg_started_at = self.now()
        self._seen_bytes = 0
        self._stalled_at = NEVER
        self.due = NEVER

    def begin(self) -> None:
        """Ask to be admitted, or refuse the request."""
        try:
            self._body = RequestBody(self._request.body)
            self._life = life = life_of(self._hub, self._request, self._body, self._head)
        except BodyError as error:
            self._hub.counters.invalid += 1
            self._answer_error(error.error)
            return
        hub = self._hub
        hub.counters.requests_in_flight += 1
        hub.counters.bytes_received += life.ticket.body_bytes
        hub.watch.add(self)
        hub.exchanges.add(self)
        hub.desk.submit(life.ticket, self, self._arrived_at)

    # --- told by the admission desk

    def admitted(self, start: Start, now: float) -> None:
        """Send the first leg."""
        if start.waited_s:
            self._hub.log.waited(start.ticket.request, start.waited_s)
        self._run(self._living().start(now, start.decision))

    def turned_away(self, verdict: TurnAway) -> None:
        """There was no room in time."""
        self._living().refused(verdict.reason)
        self._answer_error(admission_refusal(verdict))

    # --- told by the leg

    def leg_answered(self) -> None:
        """Prefill is done, or decode's first bytes are here."""
        leg, now = self._leg, self.now()
        if isinstance(leg, PrefillLeg):
            self._prefill_answered(leg, now)
            return
        hub, life = self._hub, self._living()
        hub.counters.first_byte_s.observe(now - self._leg_started_at)
        hub.counters.time_to_first_byte_s.observe(now - self._arrived_at)
        note_stream(hub, life.request, leg, now)
        self._run(life.decode_answered())

    def _prefill_answered(self, leg: PrefillLeg, now: float) -> None:
        hub, life = self._hub, self._living()
        try:
            answer = read_prefill_answer(leg.body)
        except (ValueError, RecursionError) as error:
            self.leg_failed(Failure(Fault.MALFORMED, f"not a completion: {error}"))
            return
        hub.counters.prefill_s.observe(now - self._leg_started_at)
        note_prefill(hub, life.request, answer, now)
        self._kv = answer.kv
        self._run(life.prefill_answered(with_kv=answer.kv is not None, tokens=answer.tokens))

    def leg_rejected(self) -> None:
        """A worker finds fault with the request."""
        self._run(self._living().rejected())

    def leg_failed(self, failure: Failure) -> None:
        """No answer, or none to show."""
        leg = self._leg
        if failure.fault in ANSWERED and leg is not None and leg.whole:
            self._last_answer = leg
        self._log_failure(failure)
        life = self._living()
        beside = life.phase is Phase.BOTH and isinstance(leg, PrefillLeg)
        self._run(life.leg_failed(failure, self.now(), partner=beside))
        self._hub.desk.rearm()

    def leg_resent(self) -> None:
        """A kept-alive connection was stale."""
        self._hub.counters.stale_resends += 1

    def leg_ended(self) -> None:
        """The client has the whole answer."""
        leg = self._leg
        assert leg is not None
        assert leg.head is not None
        self._hub.counters.request_s.observe(self.now() - self._arrived_at)
        self._run(self._living().stream_ended())
        self._finish(keep_alive=leg.head.lets_client_stay)

    def leg_broken(self, failure: Failure) -> None:
        """The answer stopped after the client had seen some of it."""
        self._log_failure(failure)
        self._run(self._living().stream_broken(failure, self.now()))

    def _log_failure(self, failure: Failure) -> None:
        worker = self._prefill if isinstance(self._leg, PrefillLeg) else self._decode
        if worker is not None:
            logger.info("%s: %s %s: %s", self.request_id, worker.name, failure.fault.value, failure.detail)

    # --- told by the client's connection

    def client_gone(self) -> None:
        """Drop the leg; have workers drop the rest."""
        if self._life is None:
            return
        self._drop_leg()
        self._run(self._life.client_gone())
        self._leave()

    def pause(self) -> None:
        """Stop reading from the worker."""
        self._stalled_at = self.now()
        if isinstance(self._leg, RelayLeg) and self._leg.relaying:
            self._leg.pause()

    def resume(self) -> None:
        """Read on."""
        self._stalled_at = NEVER
        if isinstance(self._leg, RelayLeg) and self._leg.relaying:
            self._set_due(self._hub.config.timeouts.between_chunks_s)
            self._leg.resume()

    # --- told by the watch

    def overdue(self, now: float) -> None:
        """A phase took too long, unless bytes came or the client is what it waits for."""
        timeouts, leg = self._hub.config.timeouts, self._leg
        if leg is None:
            self.due = NEVER
        elif not isinstance(leg, RelayLeg) or not leg.relaying:
            leg.fail(Failure(Fault.TIMEOUT, f"no answer within {now - self._leg_started_at:.1f} s"))
        elif leg.received != self._seen_bytes:
            self._seen_bytes = leg.received
            self.due = now + timeouts.between_chunks_s
        elif self._stalled_at + timeouts.client_stall_s <= now:
            self._client.transport.abort()
        elif self._stalled_at != NEVER:
            self.due = self._stalled_at + timeouts.client_stall_s
        else:
            leg.fail(Failure(Fault.TIMEOUT, f"nothing for {timeouts.between_chunks_s:g} s"))

    # --- commands

    def _run(self, commands: list[Command]) -> None:
        for command in commands:
            match command:  # the usual ones first: each look at a type costs
                case SendPrefill() | SendDecode():
                    self._send(command)
                case Relay():
                    self._relay()
                case _:
                    self._run_rare(command)

    def _run_rare(self, command: SendBoth | RelayLastAnswer | Refuse | TellBroken | Abort | Probe) -> None:
        match command:
            case SendBoth():
                self._send(command)
            case RelayLastAnswer():
                self._relay_last_answer()
            case Refuse():
                self._answer_error(refusal(command.failure))
            case TellBroken():
                self._tell_broken(command.failure)
            case Abort():
                self._hub.abort(command)
            case Probe():
                self._hub.probe(command.worker)
            case _:
                assert_never(command)

    def _send(self, command: SendPrefill | SendDecode | SendBoth) -> None:
        match command:
            case SendPrefill():
                self._send_prefill(command)
            case SendDecode():
                self._send_decode(command)
            case SendBoth():
                self._send_both(command)

    def _send_prefill(self, command: SendPrefill) -> None:
        self._prefill = worker = command.worker
        self._kv = None
        pool = self._hub.pools[worker.name]
        pieces = self._head.whole(pool.host_header, command.wire_id, self._sendable().for_prefill())
        self._start(PrefillLeg(self, pool, pieces), self._hub.config.timeouts.prefill_s)

    def _send_decode(self, command: SendDecode) -> None:
        self._decode = worker = command.worker
        if not command.with_kv:
            self._prefill = self._kv = None
        pool = self._hub.pools[worker.name]
        body = self._sendable().for_decode(self._kv, self._seed(worker))
        pieces = self._head.whole(pool.host_header, command.wire_id, body, http_1_0=self._request.http_1_0)
        self._start(self._relay_leg(pool, pieces), self._hub.config.timeouts.first_byte_s)

    def _seed(self, worker: Worker) -> int | None:
        """Return what the answer is to be drawn by, if the client did not say."""
        return None

    def _relay_leg(self, pool: Pool, pieces: Pieces) -> RelayLeg:
        return RelayLeg(self, pool, pieces)

    def _send_both(self, command: SendBoth) -> None:
        """Ask two at once: see `pair_exchange`."""
        raise NotImplementedError

    def _start(self, leg: PrefillLeg | RelayLeg, timeout_s: float) -> None:
        self._leg = leg
        self._leg_started_at = now = self.now()
        self.due = now + timeout_s
        leg.start()

    def _relay(self) -> None:
        leg = self._leg
        assert leg is not None
        if not self._keeps(leg):
            self._forget_body()
        if isinstance(leg, PrefillLeg):
            self._client.transport.write(leg.answer_bytes(self._lines(leg)))
            self.leg_ended()
            return
        self._seen_bytes = leg.received
        self._set_due(self._hub.config.timeouts.between_chunks_s)
        leg.relay_to(self._client.transport, self._lines(leg), self._hub.native)
        if self._client.stalled and leg is self._leg:
            self.pause()

    def _keeps(self, leg: Leg) -> bool:
        """Whether the request may have to be sent again while its answer is relayed."""
        return False

    def _relay_last_answer(self) -> None:
        leg = self._last_answer
        if leg is None or leg.head is None:
            self._answer_error(upstream_failed("every worker that was asked failed", timed_out=False))
            return
        lines = self._lines(leg)
        if leg.head.status in (429, 503) and not leg.head.has(b"retry-after"):
            lines += b"Retry-After: 1\r\n"
        self._client.transport.write(leg.answer_bytes(lines))
        self._finish(keep_alive=leg.head.lets_client_stay)

    def _tell_broken(self, failure: Failure) -> None:
        """End an event stream by an error event; cut anything else, so that its framing shows the loss."""
        leg = self._leg
        if not isinstance(leg, RelayLeg) or leg.head is None or not leg.mendable:
            self._finish(keep_alive=False)
            return
        self._client.transport.write(last_event(failure, chunked=leg.head.chunked))
        # A whole chunked answer leaves the connection in order for the next request.
        self._finish(keep_alive=leg.head.chunked and leg.head.lets_client_stay)

    def _answer_error(self, error: ApiError) -> None:
        keep = self._request.keep_alive
        self._client.transport.write(error.answer(request_id=self.request_id, close=not keep))
        self._finish(keep_alive=keep)

    def _lines(self, leg: Leg) -> bytes:
        assert leg.head is not None
        keep = self._request.keep_alive
        return added_lines(leg.head, self._prefill, self._decode, self.request_id, keep_alive=keep)

    # --- ending

    def shut_down(self) -> None:
        """The proxy's grace is over: end the answer in good order, or refuse the request."""
        if isinstance(self._leg, RelayLeg) and self._leg.relaying:
            self._leg.fail(Failure(Fault.LOST, "the proxy is shutting down"))
            return
        self._drop_leg()
        self._run(self._living().client_gone())
        self._answer_error(unavailable("the proxy is shutting down"))

    def _finish(self, *, keep_alive: bool) -> None:
        self._leave()
        self._client.finished(keep_alive=keep_alive and self._request.keep_alive)

    def _leave(self) -> None:
        """Be gone, for everybody but the client's connection."""
        leg, self._leg = self._leg, None
        hub, life = self._hub, self._life
        self.due = NEVER
        if life is not None:
            now = self.now()
            hub.counters.requests_in_flight -= 1
            hub.exchanges.discard(self)
            hub.watch.discard(self)
            self._forget_body()
            if life.ticket.standing is Standing.STARTED:
                note_end(hub, life.request, leg, now)
            hub.desk.release(life.ticket, now)
        if leg is not None:
            hub.counters.bytes_relayed += leg.received

    def _drop_leg(self) -> None:
        if self._leg is not None:
            self._leg.cancel()

    def _forget_body(self) -> None:
        """Nothing will be sent again: neither a long answer nor the log need keep a long prompt."""
        self._body = None
        self._request.body = b""
        self._living().request.prompt = b""

    def _set_due(self, timeout_s: float) -> None:
        self.due = self.now() + timeout_s

    def _sendable(self) -> RequestBody:
        assert self._body is not None, "the body was given up when the answer began"
        return self._body

    def _living(self) -> RequestLife:
        assert self._life is not None, "no leg runs before the request's life begins"
        return self._life
