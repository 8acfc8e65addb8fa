"""An exchange whose stream, when its worker dies, is computed again elsewhere and continued.

What is continued is checked against what the client has: `told.py`, `continuation.py`. Where that is not
possible the stream ends by an error event, as before.
"""

from .added import last_event
from .front import ClientConnection
from .hub import Hub
from .leg import Leg
from .pair_exchange import PairExchange
from .relay_leg import RelayLeg
from .replay import Broken, Replay, broken_stream, replay_of
from .request import ClientRequest
from .resume_leg import LAST_CHUNK, ResumeLeg
from .routing.commands import Failure, Fault, SendBoth, SendDecode, SendPrefill
from .routing.fleet import Kind, Worker
from .upstream import Pieces, Pool
from .watch import NEVER


class ResumableExchange(PairExchange):
    """One completion being served."""

    __slots__ = ("_breaking", "_broken", "_may_resume", "_replay")

    def __init__(self, hub: Hub, client: ClientConnection, request: ClientRequest) -> None:
        super().__init__(hub, client, request)
        self._replay: Replay | None = None
        self._breaking: Failure | None = None
        """Why the stream broke off, until it is read back."""
        self._broken: Broken | None = None
        """What the client has, once its stream broke off."""
        self._may_resume = True

    # --- told by the leg

    def leg_broken(self, failure: Failure) -> None:
        """The answer stopped after the client had seen some of it: continue it, or say so."""
        leg, replay = self._leg, self._replay
        again = leg if isinstance(leg, ResumeLeg) else None
        if not self._may_resume or replay is None or (again is not None and again.diverged):
            self._tell_end(failure)
        elif again is not None:
            self._go_on(failure)
        elif self._breaking is None and isinstance(leg, RelayLeg):
            # Others broke off with it, and reading one back takes long: the loop does something else between.
            self._breaking, self.due = failure, NEVER
            self._hub.replays.broke_off(replay)
            self._hub.read_backs.add(self._read_back)

    def _tell_end(self, failure: Failure) -> None:
        self._breaking = None
        super().leg_broken(failure)

    def _read_back(self) -> None:
        """Go on where the stream broke off, unless its client left or the proxy's grace ended meanwhile."""
        failure, leg, replay = self._breaking, self._leg, self._replay
        if failure is None or replay is None or not isinstance(leg, RelayLeg):
            return
        broken = broken_stream(leg)
        if broken is None:
            self._tell_end(failure)
        elif broken.told.done:
            self._client.transport.write(LAST_CHUNK if broken.chunked else b"")
            self.leg_ended()
        else:
            self._breaking, self._broken = None, broken
            self._hub.replays.read_back(replay, broken.told)
            self._go_on(failure)

    def _go_on(self, failure: Failure) -> None:
        self._log_failure(failure)
        self._run(self._living().stream_lost(failure, self.now()))
        self._hub.desk.rearm()

    def leg_rejected(self) -> None:
        """A worker finds fault with the request; with one that was served before, the worker is at fault."""
        if self._broken is None:
            super().leg_rejected()
        else:
            self.leg_failed(Failure(Fault.ERROR, "it refused to go on with a stream"))

    # --- sending and relaying

    def _send(self, command: SendPrefill | SendDecode | SendBoth) -> None:
        decision = self._living().decision
        if decision is not None and decision.decode.kind is Kind.SGLANG:
            if self._broken is not None:
                self._pass_over(decision.decode)
                return
            self._replay = None
        super()._send(command)

    def _pass_over(self, decode: Worker) -> None:
        """Ask SGLang for nothing: it may give another answer, and would begin a second one."""
        self._leg, self._decode = None, decode
        workers = self._hub.router.fleet.workers.values()
        self._living().request.tried_decode.update(w.name for w in workers if w.kind is Kind.SGLANG)
        self.leg_failed(Failure(Fault.BUSY, "it goes on with no stream of another worker's"))

    def _seed(self, worker: Worker) -> int | None:
        if self._replay is None and self._hub.config.limits.replay_bytes:
            self._replay = replay_of(self._sendable(), worker.kind)
        return None if self._replay is None else self._replay.seed

    def _relay_leg(self, pool: Pool, pieces: Pieces) -> RelayLeg:
        if self._broken is not None:
            return ResumeLeg(self, pool, pieces, self._broken)
        return RelayLeg(self, pool, pieces)

    def _keeps(self, leg: Leg) -> bool:
        if self._broken is not None:
            return True
        replay = self._replay
        if replay is None or not isinstance(leg, RelayLeg):
            return False
        return self._hub.replays.keep(replay, leg, self._forget_body)

    def _tell_broken(self, failure: Failure) -> None:
        broken = self._broken
        if broken is None:
            super()._tell_broken(failure)
            return
        self._client.transport.write(last_event(failure, chunked=broken.chunked))
        self._finish(keep_alive=broken.chunked and broken.stays)

    # --- ending

    def shut_down(self) -> None:
        """The proxy's grace is over: nothing is continued any more."""
        self._may_resume = False
        relaying = isinstance(self._leg, RelayLeg) and self._leg.relaying
        if self._broken is None or relaying:
            super().shut_down()
            return
        self._drop_leg()
        self._run(self._living().client_gone())
        self._tell_broken(Failure(Fault.LOST, "the proxy is shutting down"))

    def _leave(self) -> None:
        self._breaking = None
        if self._replay is not None:
            self._hub.replays.discard(self._replay)
        super()._leave()
