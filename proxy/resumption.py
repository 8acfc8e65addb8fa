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


class ResumableExchange(PairExchange):
    """One completion being served."""

    __slots__ = ("_broken", "_may_resume", "_replay")

    def __init__(self, hub: Hub, client: ClientConnection, request: ClientRequest) -> None:
        super().__init__(hub, client, request)
        self._replay: Replay | None = None
        self._broken: Broken | None = None
        """What the client has, once its stream broke off."""
        self._may_resume = True

    # --- told by the leg

    def leg_broken(self, failure: Failure) -> None:
        """The answer stopped after the client had seen some of it: continue it, or say so."""
        broken = self._continuable()
        if broken is None:
            super().leg_broken(failure)
            return
        if broken.told.done:
            self._client.transport.write(LAST_CHUNK if broken.chunked else b"")
            self.leg_ended()
            return
        self._broken = broken
        if self._replay is not None:
            self._hub.replays.discard(self._replay)  # its request is needed now, whatever the budget
        self._log_failure(failure)
        self._run(self._living().stream_lost(failure, self.now()))
        self._hub.desk.rearm()

    def leg_rejected(self) -> None:
        """A worker finds fault with the request; with one that was served before, the worker is at fault."""
        if self._broken is None:
            super().leg_rejected()
        else:
            self.leg_failed(Failure(Fault.ERROR, "it refused to go on with a stream"))

    def _continuable(self) -> Broken | None:
        leg = self._leg
        if not self._may_resume or self._replay is None:
            return None
        if isinstance(leg, ResumeLeg):
            return None if leg.diverged else self._broken
        return broken_stream(leg) if isinstance(leg, RelayLeg) else None

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
        if self._replay is not None:
            self._hub.replays.discard(self._replay)
        super()._leave()
