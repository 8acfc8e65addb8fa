"""One request, from its first leg to its last byte, with no I/O: events in, commands out.

    start            admitted, with a pair                          -> SendPrefill | SendDecode
    start            admitted, with an SGLang pair                  -> SendBoth
    refused          not admitted                                   -> (done)
    prefill answers  its KV is advertised                           -> SendDecode
    decode answers   its head and first bytes are here              -> Relay
    stream ends      decode has acknowledged the KV to prefill      -> (done)

A leg that fails before the first byte is tried on another worker, to which its decode slot moves. When it was
the decode leg, prefill is done again, since the KV may be read or freed by now. A worker's final 4xx goes to
the client as it is. A stream that breaks off is computed again elsewhere and continued, where the shell can.
Whatever may still hold work or KV for the request is told so by an explicit `Abort`.
"""

import enum

from .books import decode_done, prefill_done
from .commands import (
    ANSWERED,
    DEADLY,
    NOTHING,
    RELAY,
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
from .fleet import Worker
from .ledger import HandoverEvent
from .observer import Leg
from .policy import Decision
from .router import Outcome, Router
from .ticket import Ticket
from .verdict import RefusalReason


class Phase(enum.Enum):
    """What the request waits for."""

    NEW = "new"
    PREFILL = "prefill"
    BOTH = "both"
    """Prefill's answer, while decode was asked too."""
    DECODE = "decode"
    RELAY = "relay"
    DONE = "done"


class RequestLife:
    """The state of one request. Every event returns the commands that follow from it, in order."""

    __slots__ = (
        "_attempt", "_begun", "_kv_held", "_lost", "_outcome", "_prefilling",
        "decision", "phase", "request", "router", "ticket", "wire_id",
    )  # fmt: skip

    def __init__(self, ticket: Ticket, router: Router) -> None:
        self.ticket = ticket
        self.request = ticket.request
        self.router = router
        self.phase = Phase.NEW
        self.decision: Decision | None = None
        self._attempt = 0
        self._begun = False  # the client has the beginning of an answer that is computed again
        self._lost = 0
        self._kv_held = False
        self._prefilling = False
        self._outcome = Outcome.SERVED
        self.wire_id = ""
        """The id workers know this attempt by: a late abort of an earlier one cannot hit it."""

    # --- events

    def start(self, now: float, decision: Decision) -> list[Command]:
        """The request was admitted, and its decode slot granted."""
        assert self.phase is Phase.NEW, self.phase
        self._claim(self.request.request_id)
        return self._enter(decision, now)

    def refused(self, reason: RefusalReason) -> None:
        """The request was not admitted."""
        assert self.phase is Phase.NEW, self.phase
        unserved = reason is RefusalReason.NO_WORKERS
        self._end_unstarted(Outcome.UNAVAILABLE if unserved else Outcome.OVERLOADED)

    def prefill_answered(self, *, with_kv: bool, tokens: int | None) -> list[Command]:
        """Prefill is done; `tokens` are the prompt tokens whose KV it offers, if it tells."""
        assert self.phase is Phase.PREFILL, self.phase
        decision = self._decided()
        self._leave_prefill(decision)
        assert decision.prefill is not None
        self.router.fleet.succeeded(decision.prefill)
        if with_kv:
            self.router.ledger.advertise(self.wire_id, tokens)
            self.router.ledger.on(self.wire_id, HandoverEvent.GRANT)
            self.router.counts.split += 1
        else:
            self._kv_held = False
            self.router.ledger.on(self.wire_id, HandoverEvent.FREE)
            self.router.counts.decode_alone += 1
        self.phase = Phase.DECODE
        return [SendDecode(decision.decode, self.wire_id, with_kv)]

    def partner_answered(self) -> list[Command]:
        """Prefill is done, of two that were asked at once: decode has its KV, and may be shown."""
        assert self.phase is Phase.BOTH, self.phase
        decision = self._decided()
        self._leave_prefill(decision)
        assert decision.prefill is not None
        self.router.fleet.succeeded(decision.prefill)
        self.router.ledger.advertise(self.wire_id, None)
        self.router.ledger.on(self.wire_id, HandoverEvent.GRANT)
        self.router.counts.split += 1
        self.phase = Phase.DECODE
        return NOTHING

    def rejected(self) -> list[Command]:
        """The leg's answer is a final 4xx: the request is at fault, on any worker."""
        aborts = self._abort_both() if self.phase is Phase.BOTH else []
        if self.phase is Phase.PREFILL:
            self._leave_prefill(self._decided())
            self._kv_held = False
            self.router.ledger.on(self.wire_id, HandoverEvent.FREE)
        self._outcome = Outcome.REJECTED
        self.phase = Phase.RELAY
        return [Relay(), *(aborts or self._release_kv())]

    def decode_answered(self) -> list[Command]:
        """Decode answered with success, and its first bytes are here."""
        assert self.phase is Phase.DECODE, self.phase
        self.router.fleet.succeeded(self._decided().decode)
        if self._kv_held:
            self.router.ledger.on(self.wire_id, HandoverEvent.PULL)
        self.phase = Phase.RELAY
        return RELAY

    def leg_failed(self, failure: Failure, now: float, *, partner: bool = False) -> list[Command]:
        """The leg under way failed before the client saw a byte of it; `partner`: prefill, of two."""
        assert self.phase in (Phase.PREFILL, Phase.BOTH, Phase.DECODE), self.phase
        leg = Leg.PREFILL if partner or self.phase is Phase.PREFILL else Leg.DECODE
        commands = self._blame(failure, leg, now)
        self._lost += failure.fault in DEADLY or failure.after_loss
        again = self._elsewhere(now)
        if again is None:
            return commands + self._give_up(failure)
        self.router.counts.retries[leg.value] += 1
        return commands + again

    def stream_ended(self) -> list[Command]:
        """The answer went to the client whole."""
        if self.phase is Phase.DONE:
            return NOTHING
        if self._kv_held:
            self._kv_held = False
            self.router.ledger.on(self.wire_id, HandoverEvent.FREE)
        self.router.counts.resumed += self._begun
        return self._finish(self._outcome)

    def stream_broken(self, failure: Failure, now: float) -> list[Command]:
        """The answer stopped after its first byte."""
        assert self.phase is Phase.RELAY, self.phase
        decision = self._decided()
        commands: list[Command] = [TellBroken(failure), Probe(decision.decode)]
        self.router.fleet.failed(decision.decode, now)
        commands += self._abort_both()
        return commands + self._finish(Outcome.BROKEN)

    def stream_lost(self, failure: Failure, now: float) -> list[Command]:
        """The same, but another worker may compute the answer again and go on where it stopped."""
        assert self.phase is Phase.RELAY, self.phase
        commands = self._blame(failure, Leg.DECODE, now)
        self._begun = True
        self._lost += failure.fault in DEADLY
        again = self._elsewhere(now)
        return commands + (self._give_up(failure) if again is None else again)

    def client_gone(self) -> list[Command]:
        """Nobody waits for the answer any more."""
        if self.phase is Phase.DONE:
            return NOTHING
        if self.phase is Phase.NEW:
            self._end_unstarted(Outcome.CANCELLED)
            return NOTHING
        return self._abort_both() + self._finish(Outcome.CANCELLED)

    # --- choosing

    def _elsewhere(self, now: float) -> list[Command] | None:
        """Begin anew on other workers; None without any, or if it may be the request that kills them."""
        if self._lost >= self.router.max_lost_attempts:
            return None
        decision = self.router.admission.replace(self.ticket, now)
        if decision is None:
            return None
        self._attempt += 1
        self.router.ids.release(self.wire_id)
        self._claim(f"{self.request.request_id}-retry{self._attempt}")
        return self._enter(decision, now)

    def _claim(self, wanted: str) -> None:
        self.wire_id = self.request.wire_id = self.router.ids.claim(wanted)

    def _enter(self, decision: Decision, now: float) -> list[Command]:
        self.decision = decision
        prefill = decision.prefill
        if prefill is None:
            self.router.counts.decode_alone += 1
            self.phase = Phase.DECODE
            return [SendDecode(decision.decode, self.wire_id, False)]
        tokens = self.request.prompt_tokens
        self.router.ledger.create(self.wire_id, prefill=prefill.name, tokens=tokens)
        self._prefilling = self._kv_held = True
        if decision.decode.needs_partner:
            self.phase = Phase.BOTH
            return [SendBoth(prefill, decision.decode, self.wire_id)]
        self.phase = Phase.PREFILL
        return [SendPrefill(prefill, self.wire_id)]

    def _give_up(self, failure: Failure) -> list[Command]:
        if self._begun:
            self._finish(Outcome.BROKEN)
            return [TellBroken(failure)]
        if failure.fault in ANSWERED:
            last: Command = RelayLastAnswer()
            outcome = Outcome.UNAVAILABLE if failure.fault is Fault.BUSY else Outcome.FAILED
        else:
            unavailable = failure.fault is Fault.UNREACHABLE
            outcome = Outcome.UNAVAILABLE if unavailable else Outcome.FAILED
            last = Refuse(outcome, failure)
        self._finish(outcome)
        return [last]

    # --- ending legs

    def _blame(self, failure: Failure, leg: Leg, now: float) -> list[Command]:
        """Book the failed leg's end; return what has to be said to the workers."""
        decision = self._decided()
        prefilled = leg is Leg.PREFILL
        worker = decision.prefill if prefilled else decision.decode
        assert worker is not None
        (self.request.tried_prefill if prefilled else self.request.tried_decode).add(worker.name)
        commands: list[Command] = []
        self.router.failed(self.request, leg, now)
        if failure.fault is Fault.UNREACHABLE:
            self.router.fleet.unreachable(worker, failure.detail, now)
        elif failure.fault is not Fault.BUSY:
            self.router.fleet.failed(worker, now)
        if failure.fault not in ANSWERED:
            commands.append(Probe(worker))
        asked_beside = prefilled and self.phase is Phase.BOTH
        if asked_beside or (failure.fault in DEADLY and not prefilled):
            commands.append(self._abort(decision.decode, releases=False))
        if prefilled and failure.fault not in DEADLY:
            self._kv_held = False
            self.router.ledger.on(self.wire_id, HandoverEvent.FREE)
        commands += self._release_kv()
        self._leave_prefill(decision)
        self._leave_decode(decision)
        return commands

    def _abort_both(self) -> list[Command]:
        decision = self._decided()
        commands = self._release_kv()
        if self.phase in (Phase.BOTH, Phase.DECODE, Phase.RELAY):
            commands.append(self._abort(decision.decode, releases=False))
        return commands

    def _release_kv(self) -> list[Command]:
        """Have prefill free what it may still hold for this attempt."""
        decision = self._decided()
        if not self._kv_held or decision.prefill is None:
            return []
        self._kv_held = False
        self.router.ledger.on(self.wire_id, HandoverEvent.RELEASE)
        return [self._abort(decision.prefill, releases=True)]

    def _abort(self, worker: Worker, *, releases: bool) -> Abort:
        self.router.ids.hold(self.wire_id)
        return Abort(worker, self.wire_id, releases)

    def _leave_prefill(self, decision: Decision) -> None:
        if self._prefilling:
            self._prefilling = False
            prefill_done(self.request, decision)

    def _leave_decode(self, decision: Decision) -> None:
        decode_done(self.request, decision)
        self.decision = None

    def _finish(self, outcome: Outcome) -> list[Command]:
        if self.decision is not None:
            self._leave_prefill(self.decision)
            self._leave_decode(self.decision)
        if self.phase is not Phase.DONE:
            self._count(outcome)
            self.router.ids.release(self.wire_id)
        self.phase = Phase.DONE
        return NOTHING

    def _end_unstarted(self, outcome: Outcome) -> None:
        self._count(outcome)
        self.phase = Phase.DONE

    def _count(self, outcome: Outcome) -> None:
        self.router.counts.outcomes[outcome] += 1

    def _decided(self) -> Decision:
        assert self.decision is not None, f"no workers in {self.phase}"
        return self.decision
