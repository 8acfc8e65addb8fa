"""Asks a running fleet or worker, and times. The only part that knows sockets and a clock."""

import asyncio
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeVar

import aiohttp
import msgspec

from .answer import Answer, AnswerError, read_stream
from .model_fit import CalibrationError, PoolSizes
from .plan import Ask

TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=300)
T = TypeVar("T")


class Surveyed(msgspec.Struct, frozen=True, kw_only=True):
    """What the server tells of itself."""

    model: str
    pools: PoolSizes
    prefill_workers: int
    """0 where the URL is a worker's own, or nobody tells."""
    decode_workers: int
    longest: int | None
    """Tokens of a prompt with its answer."""


class Client:
    """Talks to one URL. A context: `async with`."""

    def __init__(self, url: str, model: str | None) -> None:
        self._url = url.rstrip("/")
        self._wanted = model
        self._model = ""
        self._born_at = time.perf_counter()
        self._session = aiohttp.ClientSession(timeout=TIMEOUT, connector=aiohttp.TCPConnector(limit=0))

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def survey(self) -> Surveyed:
        """Ask what is served by whom. Raises `CalibrationError`."""
        models = await self._get(f"{self._url}/v1/models", _Models)
        if models is None or not models.data:
            raise CalibrationError(f"{self._url}/v1/models lists no model")
        served = {each.id: each for each in models.data}
        self._model = self._wanted or models.data[0].id
        if self._model not in served:
            raise CalibrationError(f"{self._url} does not serve {self._model}, but {', '.join(served)}")
        fleet = await self._get(f"{self._url}/fleet", _Fleet)
        if fleet is not None:
            return await self._survey_fleet(fleet)
        alone = await self._get(f"{self._url}/ready", _Ready) or _Ready()
        return Surveyed(
            model=self._model,
            pools=PoolSizes(prefill=alone.kv_tokens_capacity, decode=alone.kv_tokens_capacity),
            prefill_workers=0,
            decode_workers=1,
            longest=alone.max_model_len or served[self._model].max_model_len,
        )

    async def ask(self, ask: Ask) -> Answer:
        """Stream one completion. Raises `CalibrationError`."""
        body = {
            "model": self._model,
            "prompt": ask.prompt,
            "max_tokens": ask.output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        sent_at = self._now()
        try:
            async with self._session.post(f"{self._url}/v1/completions", json=body) as answer:
                pieces = [(self._now(), piece) async for piece in answer.content.iter_any()]
                if answer.status != 200:
                    said = b"".join(piece for _, piece in pieces).decode(errors="replace")
                    raise CalibrationError(f"{self._url}: HTTP {answer.status}: {said[:300]}")
            return read_stream(sent_at, pieces)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise CalibrationError(
                f"{self._url}: {error or 'no data for 5 minutes'} ({type(error).__name__})"
            ) from error
        except AnswerError as error:
            raise CalibrationError(f"{self._url}: {error}") from error

    async def ask_at(self, asks: Sequence[tuple[float, Ask]], on_answer: Callable[[], None]) -> list[Answer]:
        """Send each as many seconds from now as it says, whatever came of the ones before.

        Returns the answers in the order of `asks`. Raises `CalibrationError`.
        """
        began_at = self._now()

        async def ask_later(delay_s: float, ask: Ask) -> Answer:
            await asyncio.sleep(began_at + delay_s - self._now())
            answer = await self.ask(ask)
            on_answer()
            return answer

        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(ask_later(delay_s, ask), name=f"ask {number}")
                    for number, (delay_s, ask) in enumerate(asks)
                ]
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # the first failure says it all
        return [task.result() for task in running]

    def _now(self) -> float:
        return time.perf_counter() - self._born_at

    async def _survey_fleet(self, fleet: "_Fleet") -> Surveyed:
        told = {
            worker.name: await self._get(f"{worker.url.rstrip('/')}/ready", _Ready) or _Ready()
            for worker in fleet.workers
        }
        prefill = [told[worker.name] for worker in fleet.workers if worker.role != "decode"]
        decode = [told[worker.name] for worker in fleet.workers if worker.role != "prefill"]
        return Surveyed(
            model=self._model,
            pools=PoolSizes(
                prefill=_least([each.kv_tokens_capacity for each in prefill]),
                decode=_least([each.kv_tokens_capacity for each in decode]),
            ),
            prefill_workers=len(prefill),
            decode_workers=len(decode),
            longest=_least([each.max_model_len for each in told.values()]),
        )

    async def _get(self, url: str, kind: type[T]) -> T | None:
        """Return what `url` says; None if there is no such thing. Raises `CalibrationError`."""
        try:
            async with self._session.get(url) as answer:
                body = await answer.read()
                return msgspec.json.decode(body, type=kind) if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError) as error:
            raise CalibrationError(f"{url}: {error or 'no answer'}") from error
        except msgspec.DecodeError:
            return None


class _Model(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct, frozen=True, kw_only=True):
    data: list[_Model]


class _Ready(msgspec.Struct, frozen=True, kw_only=True):
    kv_tokens_capacity: int | None = None
    max_model_len: int | None = None


class _Listed(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: str
    url: str


class _Fleet(msgspec.Struct, frozen=True, kw_only=True):
    workers: list[_Listed]


def _least(values: Sequence[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
