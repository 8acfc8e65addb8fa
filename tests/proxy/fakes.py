"""Workers that speak the dialect over real sockets and fail on command, and a client that sees raw bytes."""

import asyncio
import contextlib
import json
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httptools

from baton.proxy.kv_event_source import KvEventAddress

MODEL = "demo"
KV_FIELDS = {
    "do_remote_prefill": True,
    "do_remote_decode": False,
    "remote_block_ids": [[1, 2, 3]],
    "remote_engine_id": "dd749e0e",
    "remote_request_id": "cmpl-x-0",
    "remote_host": "127.0.0.1",
    "remote_port": 5600,
    "tp_size": 1,
    "remote_num_tokens": 300,
    "some_field_of_tomorrow": {"nested": [1.50, None]},
}


@dataclass
class Request:
    """One request as a worker saw it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One connection of a worker, for behaviours to answer on."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(
        self, status: int, body: bytes, *lines: str, content_type: str = "application/json"
    ) -> None:
        head = [
            f"HTTP/1.1 {status} X",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(body)}",
            *lines,
        ]
        await self.send("\r\n".join([*head, "", ""]).encode() + body)

    async def begin_stream(self) -> None:
        await self.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    async def chunk(self, data: bytes) -> None:
        await self.send(chunked(data))

    async def until_closed(self) -> None:
        """Return when the proxy ends the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass

    def die(self) -> None:
        """End the connection as a killed process does."""
        self.writer.transport.abort()


Behaviour = Callable[["FakeWorker", Connection, Request], Awaitable[None]]


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def chat_chunk(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return event(id="c", object="chat.completion.chunk", created=1, model=MODEL, choices=[choice])


def completion(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return json.dumps(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": MODEL,
            "choices": choices,
            "usage": usage,
        }
    ).encode()


DONE = b"data: [DONE]\n\n"


async def prefills(worker: "FakeWorker", connection: Connection, request: Request) -> None:
    answer = {"id": "p", "choices": [], "kv_transfer_params": KV_FIELDS}
    await connection.answer(200, json.dumps(answer).encode())


async def prefills_without_kv(worker: "FakeWorker", connection: Connection, request: Request) -> None:
    await connection.answer(200, b'{"id": "p", "kv_transfer_params": null}')


async def decodes(worker: "FakeWorker", connection: Connection, request: Request) -> None:
    """Stream, or answer whole, as the request asks."""
    if not request.json.get("stream"):
        await connection.answer(200, completion("one two"))
        return
    await connection.begin_stream()
    for text in ("one", " two"):
        await connection.chunk(chat_chunk(text))
    await connection.chunk(DONE)
    await connection.send(b"0\r\n\r\n")


def fails(status: int, *lines: str, message: str = "broken") -> Behaviour:
    async def behave(worker: "FakeWorker", connection: Connection, request: Request) -> None:
        error = {"error": {"message": message, "type": "x", "param": None, "code": status}}
        await connection.answer(status, json.dumps(error).encode(), *lines)

    return behave


def says(raw: bytes) -> Behaviour:
    """Send these bytes, then die."""

    async def behave(worker: "FakeWorker", connection: Connection, request: Request) -> None:
        if raw:
            await connection.send(raw)
            worker.said.set()
            await worker.go_on.wait()
        connection.die()

    return behave


async def hangs(worker: "FakeWorker", connection: Connection, request: Request) -> None:
    worker.hanging.set()
    await connection.until_closed()
    worker.left.set()


@dataclass
class FakeWorker:
    """One worker on a port of its own. `next` holds behaviours for the requests to come, before `usual`."""

    role: str
    model: str = MODEL
    kind: str = "baton"
    port: int = 0
    ready: bool = True
    shakes: bool = True
    kv_tokens_capacity: int | None = None
    captured_batch_sizes: tuple[int, ...] = ()
    lockstep_group: str | None = None
    load: dict[str, int] | None = None
    bootstrap_port: int = 8998
    kv_events: KvEventAddress | None = None
    usual: Behaviour = decodes
    next: deque[Behaviour] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    aborts: list[str] = field(default_factory=list)
    peers: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0

    def __post_init__(self) -> None:
        if self.role == "prefill":
            self.usual = prefills
        self.incarnation = uuid.uuid4().hex
        self.hanging = asyncio.Event()
        self.left = asyncio.Event()
        self.said = asyncio.Event()
        self.go_on = asyncio.Event()
        self.aborted = asyncio.Event()
        self.confirms = asyncio.Event()
        self.confirms.set()
        self._open: set[Connection] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def kill(self) -> None:
        """Refuse connections and cut those that stand, as `kill -9` does."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._open):
            connection.die()
        self.incarnation = uuid.uuid4().hex

    def cut_idle(self) -> None:
        """Cut every connection, go on listening."""
        for connection in list(self._open):
            connection.die()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        self._open.add(connection)
        self.connections += 1
        try:
            while (request := await read_request(reader)) is not None:
                await self._answer(connection, request)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the proxy cut it
        finally:
            self._open.discard(connection)
            writer.close()

    async def _answer(self, connection: Connection, request: Request) -> None:
        match request.path.split("/")[1:]:
            case ["ready"]:
                await self._answer_ready(connection)
            case ["health"]:
                await connection.answer(200 if self.ready else 503, b"")
            case ["v1", "models"]:
                await connection.answer(
                    200, json.dumps({"data": [{"id": self.model, "max_model_len": 99}]}).encode()
                )
            case ["kv", "peers"]:
                self.peers.append(request.json)
                status, body = (
                    (200, {"incarnation": "x"}) if self.shakes else (502, {"error": {"message": "no"}})
                )
                await connection.answer(status, json.dumps(body).encode())
            case ["abort", wire_id]:
                await self._answer_abort(connection, wire_id)
            case ["abort_request"]:
                await self._answer_abort(connection, request.json["rid"])
            case _:
                self.requests.append(request)
                behave = self.next.popleft() if self.next else self.usual
                await behave(self, connection, request)

    async def _answer_abort(self, connection: Connection, wire_id: str) -> None:
        self.aborts.append(wire_id)
        self.aborted.set()
        await self.confirms.wait()
        await connection.answer(200, b'{"aborted": 1, "released": 1}')

    async def _answer_ready(self, connection: Connection) -> None:
        if not self.ready:
            await connection.answer(503, b'{"ready": false, "reason": "loading weights"}')
            return
        report = {
            "ready": True,
            "role": self.role,
            "model": self.model,
            "incarnation": self.incarnation,
            "kv": {"host": "127.0.0.1", "port": 5600},
            "peers": [],
            "max_model_len": 4096,
            "kv_tokens_capacity": self.kv_tokens_capacity,
            "captured_batch_sizes": self.captured_batch_sizes,
            "lockstep_group": self.lockstep_group,
            "load": self.load,
        }
        await connection.answer(200, json.dumps(report).encode())


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, path, _ = first.split(" ")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, body)


@dataclass
class Answer:
    """One answer as a client saw it."""

    raw: bytearray = field(default_factory=bytearray)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json["error"]

    @property
    def events(self) -> list[Any]:
        """Data of the server-sent events, parsed but for the last `[DONE]`."""
        texts = [part.removeprefix("data: ") for part in self.body.decode().split("\n\n") if part]
        return [text if text == "[DONE]" else json.loads(text) for text in texts]

    @property
    def text(self) -> str:
        """Content of a streamed chat."""
        return "".join(e["choices"][0]["delta"]["content"] for e in self.events if "choices" in e)


class RawClient:
    """One client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(
        self, body: bytes, *lines: str, path: str = "/v1/chat/completions", version: str = "1.1"
    ) -> None:
        head = [f"POST {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *lines]
        await self.send("\r\n".join([*head, "", ""]).encode() + body)

    async def get(self, path: str, method: str = "GET") -> None:
        await self.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    async def answer(self) -> Answer:
        """Read one answer, to its end or to the connection's."""
        answer = Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete:
            data = await self.reader.read(65536)
            if not data:
                break
            answer.raw += data
            parser.feed_data(data)
        answer.status = parser.get_status_code()
        return answer

    async def answers(self, count: int) -> list[Answer]:
        """Read several answers, whose ends need not be those of reads."""
        return [await self._one_by_one() for _ in range(count)]

    async def _one_by_one(self) -> Answer:
        answer = Answer()
        parser = httptools.HttpResponseParser(answer)
        while not answer.complete:
            data = await self.reader.read(1)
            if not data:
                break
            answer.raw += data
            parser.feed_data(data)
        answer.status = parser.get_status_code()
        return answer

    async def answer_rest(self) -> bytes:
        """Read the rest of a chunked answer whose beginning was read already."""
        return await self.reader.readuntil(b"0\r\n\r\n")

    async def at_end(self) -> bool:
        """Whether the proxy has closed: waits for bytes or the end."""
        return await self.reader.read(1) == b""

    def leave(self) -> None:
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[RawClient]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield RawClient(reader, writer)
    finally:
        writer.transport.abort()


def chat(*, stream: bool = True, **fields: Any) -> bytes:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": stream, **fields}
    return json.dumps(body).encode()
