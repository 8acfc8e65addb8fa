"""What the engine reports about the requests of one HTTP request, in order, for the handler that waits."""

import asyncio

from ..messages import FirstToken, RequestDone, SequenceOutput
from .errors import ApiError

GenerationEvent = SequenceOutput | FirstToken | RequestDone


class Mailbox:
    """Filled by `EngineClient`, emptied by one handler. Event loop only."""

    def __init__(self, external_id: str) -> None:
        self.external_id = external_id
        self.open_ids: set[str] = set()
        """Requests the engine still works on; `EngineClient.close` aborts these."""
        self._events: list[GenerationEvent] = []
        self._failure: ApiError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def failed(self) -> bool:
        """Whether the HTTP request is doomed: there is no point in submitting more."""
        return self._failure is not None

    def put(self, event: GenerationEvent) -> None:
        """Add an event and wake the handler."""
        self._events.append(event)
        self._wake()

    def fail(self, error: ApiError) -> None:
        """End the HTTP request with `error`, after the events that came before. The first failure counts."""
        if self._failure is None:
            self._failure = error
        self._wake()

    def raise_failure(self) -> None:
        """Raise the failure, if there is one."""
        if self._failure is not None:
            raise self._failure

    async def take(self) -> list[GenerationEvent]:
        """Return all events since the last call, at least one. Raises the `ApiError` given to `fail`."""
        while not self._events:
            self.raise_failure()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        events, self._events = self._events, []
        return events

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
