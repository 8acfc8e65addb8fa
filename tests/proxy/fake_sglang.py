"""SGLang workers by their documented rules: two requests meet in a room of the prefill worker's.

Prefill answers when decode has its KV; decode begins then. Neither can go on without the other. A room is
used once, by one request.
"""

import asyncio
from dataclasses import dataclass, field

from .fakes import DONE, Connection, FakeWorker, Request, chat_chunk, completion

BOOTSTRAP_PORT = 18998


@dataclass
class Room:
    """One meeting."""

    seen: list[str] = field(default_factory=list)
    """Roles that came."""
    prefill_is_here: asyncio.Event = field(default_factory=asyncio.Event)
    decode_is_here: asyncio.Event = field(default_factory=asyncio.Event)


class Bootstrap:
    """The bootstrap server of one prefill worker, and what was done against the rules."""

    def __init__(self) -> None:
        self.rooms: dict[int, Room] = {}
        self.violations: list[str] = []

    def enter(self, worker: FakeWorker, request: Request) -> Room:
        body = request.json
        where = (body["bootstrap_host"], body["bootstrap_port"])
        if where != ("127.0.0.1", BOOTSTRAP_PORT):
            self.violations.append(f"met at {where}")
        if body["rid"] != request.headers["x-request-id"]:
            self.violations.append("the legs' ids differ from what an abort would name")
        room = self.rooms.setdefault(body["bootstrap_room"], Room())
        if worker.role in room.seen:
            self.violations.append(f"{worker.role} was sent to a room twice")
        room.seen.append(worker.role)
        (room.prefill_is_here if worker.role == "prefill" else room.decode_is_here).set()
        return room

    # --- behaviours

    async def prefills(self, worker: FakeWorker, connection: Connection, request: Request) -> None:
        if request.json.get("stream") or "kv_transfer_params" in request.json:
            self.violations.append("prefill was asked for what it does not do")
        await self.enter(worker, request).decode_is_here.wait()
        await connection.answer(200, completion("o"))

    async def decodes(self, worker: FakeWorker, connection: Connection, request: Request) -> None:
        await self.enter(worker, request).prefill_is_here.wait()
        if not request.json.get("stream"):
            await connection.answer(200, completion("one two"))
            return
        await connection.begin_stream()
        for text in ("one", " two"):
            await connection.chunk(chat_chunk(text))
        await connection.chunk(DONE)
        await connection.send(b"0\r\n\r\n")

    async def prefill_is_aborted(self, worker: FakeWorker, connection: Connection, request: Request) -> None:
        """Answer 200, as SGLang does when its request was aborted."""
        await self.enter(worker, request).decode_is_here.wait()
        await connection.answer(200, completion("").replace(b'"stop"', b'"abort"'))

    # --- workers

    def worker(self, role: str) -> FakeWorker:
        worker = FakeWorker(role, kind="sglang", bootstrap_port=BOOTSTRAP_PORT)
        worker.usual = self.prefills if role == "prefill" else self.decodes
        return worker

    def fleet(self, pairs: int = 1) -> list[FakeWorker]:
        return [self.worker(role) for role in ("prefill", "decode") for _ in range(pairs)]
