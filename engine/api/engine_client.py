"""The engine as the frontend sees it: submit requests, get their events, call it, know how it is.

    LOADING --EngineReady--> READY --lost()--> LOST
       |                                        ^
       +--------------- lost() -----------------+

Everything runs in the event loop's thread. A lost engine fails every open request and call at once.
"""

import asyncio
import contextlib
import enum
import uuid
from pathlib import Path
from typing import Protocol, TypeVar

from ..messages import (
    Abort,
    AbortExternal,
    AbortResult,
    CheckIntegrity,
    ConnectPeer,
    EngineFatal,
    EngineMessage,
    EngineReady,
    EngineStats,
    FirstToken,
    FrontendMessage,
    Generate,
    IntegrityReport,
    LeaveRanks,
    LeaveResult,
    Loading,
    PeerResult,
    RequestDone,
    RequestFailed,
    SequenceOutput,
    Shutdown,
    StepOutputs,
)
from .engine_socket import EngineGoneError, EngineSocket
from .errors import ApiError, aborted_error, error_of_failure, unavailable
from .mailbox import Mailbox

CALL_TIMEOUT_S = 10.0
"""The engine answers calls between two steps; a step takes far less."""

CONNECT_TIMEOUT_S = 60.0
"""A first handshake registers memory and reads a block."""


class EngineState(enum.Enum):
    """What the engine can do now."""

    LOADING = "loading"
    READY = "ready"
    LOST = "lost"


class EngineWatcher(Protocol):
    """Who is told what concerns no single request."""

    def on_loading(self, progress: Loading) -> None:
        """Loading went on."""

    def on_ready(self, ready: EngineReady) -> None:
        """The engine takes requests."""

    def on_fatal(self, message: str) -> None:
        """The engine says why it is about to end."""

    def on_leave_result(self, stays_because: str | None) -> None:
        """The engine has left its ranks, or serves on because they could not do without it."""

    def on_failure(self, failed: RequestFailed) -> None:
        """One request failed (for counting; its handler is told through its mailbox)."""


Answer = TypeVar("Answer", AbortResult, PeerResult, IntegrityReport)


class EngineClient:
    """The asyncio side of one engine process."""

    def __init__(self, ipc_path: Path, watcher: EngineWatcher) -> None:
        self.state = EngineState.LOADING
        self.ready: EngineReady | None = None
        self.stats: EngineStats | None = None
        self._watcher = watcher
        self._mailbox_of: dict[str, Mailbox] = {}
        self._mailboxes: set[Mailbox] = set()
        self._calls: dict[str, asyncio.Future[AbortResult | PeerResult | IntegrityReport]] = {}
        self._connected_since_stats: set[str] = set()
        self._socket = EngineSocket(ipc_path, self._on_message)

    def peers(self) -> list[str]:
        """Incarnations shaken hands with: those of the last statistics, and those connected since."""
        known = [] if self.stats is None else self.stats.peers
        return sorted({*known, *self._connected_since_stats})

    def open_mailbox(self, external_id: str) -> Mailbox:
        """Begin an HTTP request: from here on it can be aborted by its external id."""
        mailbox = Mailbox(external_id)
        self._mailboxes.add(mailbox)
        return mailbox

    def submit(self, generates: list[Generate], mailbox: Mailbox) -> None:
        """Hand requests to the engine. Raises `ApiError` when the HTTP request was aborted meanwhile."""
        mailbox.raise_failure()
        for generate in generates:
            self._send(generate)
            self._mailbox_of[generate.request_id] = mailbox
            mailbox.open_ids.add(generate.request_id)

    def abort(self, request_id: str, choice: int | None = None) -> None:
        """End a choice, or a request; nothing more of it will be delivered by the engine."""
        if self.state is EngineState.READY:
            with contextlib.suppress(EngineGoneError):  # then nothing is left to abort
                self._socket.send(Abort(request_id=request_id, choice=choice))

    def settle(self, mailbox: Mailbox, request_id: str) -> None:
        """Note that nothing of this request is wanted any more, and nothing of it runs."""
        mailbox.open_ids.discard(request_id)
        self._mailbox_of.pop(request_id, None)

    def close(self, mailbox: Mailbox) -> None:
        """End an HTTP request: what of it still runs is aborted."""
        self._mailboxes.discard(mailbox)
        for request_id in list(mailbox.open_ids):
            self.settle(mailbox, request_id)
            self.abort(request_id)

    async def abort_external(self, external_id: str) -> AbortResult:
        """End everything with this external id, in the engine or still on its way there."""
        mailboxes = [mailbox for mailbox in self._mailboxes if mailbox.external_id == external_id]
        unsubmitted = sum(1 for mailbox in mailboxes if not mailbox.open_ids and not mailbox.failed)
        for mailbox in mailboxes:
            mailbox.fail(aborted_error())
        call_id = uuid.uuid4().hex
        if self.state is not EngineState.READY:  # then nothing runs and nothing is leased
            return AbortResult(call_id=call_id, aborted=unsubmitted, released=0)
        message = AbortExternal(call_id=call_id, external_id=external_id)
        result = await self._call(message, call_id, AbortResult, CALL_TIMEOUT_S)
        return AbortResult(call_id=call_id, aborted=result.aborted + unsubmitted, released=result.released)

    async def connect_peer(self, host: str, port: int) -> PeerResult:
        """Shake hands with a prefill worker's control channel."""
        call_id = uuid.uuid4().hex
        message = ConnectPeer(call_id=call_id, host=host, port=port)
        return await self._call(message, call_id, PeerResult, CONNECT_TIMEOUT_S)

    async def check_integrity(self) -> IntegrityReport:
        """Run the engine's self-check."""
        call_id = uuid.uuid4().hex
        return await self._call(CheckIntegrity(call_id=call_id), call_id, IntegrityReport, CALL_TIMEOUT_S)

    def leave_ranks(self) -> None:
        """Let the other ranks get ready to go on without this one; it may be gone already."""
        if self.state is EngineState.READY:
            with contextlib.suppress(EngineGoneError):
                self._socket.send(LeaveRanks())

    def shut_down(self, grace_s: float) -> None:
        """Ask the engine to finish and exit; it may be gone already."""
        if self.state is not EngineState.LOST:
            with contextlib.suppress(EngineGoneError):
                self._socket.send(Shutdown(grace_s=grace_s))

    def lost(self, reason: str) -> None:
        """Fail everything open: the engine process has ended."""
        self.state = EngineState.LOST
        error = unavailable(f"the engine of this worker has ended: {reason}", code="engine_lost")
        for mailbox in self._mailboxes:
            mailbox.fail(error)
        for call in self._calls.values():
            if not call.done():
                call.set_exception(error)

    def close_socket(self) -> None:
        """Release the socket; the client cannot be used afterwards."""
        self._socket.close()

    async def _call(
        self, message: FrontendMessage, call_id: str, answer_type: type[Answer], timeout_s: float
    ) -> Answer:
        future: asyncio.Future[AbortResult | PeerResult | IntegrityReport]
        future = asyncio.get_running_loop().create_future()
        self._calls[call_id] = future
        try:
            self._send(message)
            async with asyncio.timeout(timeout_s):
                answer = await future
        except TimeoutError as error:
            raise ApiError(
                504, f"the engine gave no answer within {timeout_s:g} s", code="timeout"
            ) from error
        finally:
            del self._calls[call_id]
        assert isinstance(answer, answer_type)
        return answer

    def _send(self, message: FrontendMessage) -> None:
        if self.state is not EngineState.READY:
            raise unavailable("the engine of this worker is not ready", code=f"engine_{self.state.value}")
        try:
            self._socket.send(message)
        except EngineGoneError as error:
            raise unavailable("the engine of this worker has ended", code="engine_lost") from error

    def _on_message(self, message: EngineMessage) -> None:
        match message:
            case StepOutputs():
                for output in message.outputs:
                    self._deliver(output)
            case FirstToken():
                self._deliver(message)
            case RequestDone():
                self._on_done(message)
            case RequestFailed():
                self._on_failed(message)
            case AbortResult() | PeerResult() | IntegrityReport():
                self._on_answer(message)
            case _:
                self._on_state(message)

    def _on_state(self, message: EngineStats | Loading | EngineReady | LeaveResult | EngineFatal) -> None:
        match message:
            case EngineStats():
                self.stats = message
                self._connected_since_stats.clear()
            case Loading():
                self._watcher.on_loading(message)
            case EngineReady():
                self.ready = message
                self.state = EngineState.READY
                self._watcher.on_ready(message)
            case LeaveResult():
                self._watcher.on_leave_result(message.stays_because)
            case EngineFatal():
                self._watcher.on_fatal(message.message)

    def _deliver(self, event: SequenceOutput | FirstToken) -> None:
        mailbox = self._mailbox_of.get(event.request_id)
        if mailbox is not None:
            mailbox.put(event)

    def _on_answer(self, answer: AbortResult | PeerResult | IntegrityReport) -> None:
        if isinstance(answer, PeerResult) and answer.incarnation is not None:
            self._connected_since_stats.add(answer.incarnation)
        call = self._calls.get(answer.call_id)
        if call is not None and not call.done():
            call.set_result(answer)

    def _on_done(self, done: RequestDone) -> None:
        mailbox = self._mailbox_of.get(done.request_id)
        if mailbox is not None:
            mailbox.put(done)
            self.settle(mailbox, done.request_id)

    def _on_failed(self, failed: RequestFailed) -> None:
        self._watcher.on_failure(failed)
        mailbox = self._mailbox_of.get(failed.request_id)
        if mailbox is not None:
            mailbox.fail(error_of_failure(failed))
            self.settle(mailbox, failed.request_id)
