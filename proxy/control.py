"""The proxy's own calls to workers: probes, handshakes, aborts. Ordinary HTTP, off the hot path."""

import msgspec
from aiohttp import ClientConnectorError, ClientError, ClientSession, ClientTimeout
from yarl import URL

from .config import Probing, WorkerAddress
from .routing.fleet import Kind, KvAddress, Sighting, ToldLoad


class ControlError(RuntimeError):
    """A worker did not answer, or not in the dialect of its kind."""


class RefusedError(ControlError):
    """No connection: nothing listens there."""


class _KvChannel(msgspec.Struct, frozen=True):
    host: str
    port: int


class _Ready(msgspec.Struct, frozen=True):
    """`GET /ready`; with 503 only the reason is there."""

    ready: bool
    reason: str = ""
    model: str | None = None
    incarnation: str = ""
    kv: _KvChannel | None = None
    max_model_len: int | None = None
    kv_tokens_capacity: int | None = None
    captured_batch_sizes: tuple[int, ...] = ()
    lockstep_group: str | None = None
    load: ToldLoad | None = None


class _Model(msgspec.Struct, frozen=True):
    id: str
    max_model_len: int | None = None


class _Models(msgspec.Struct, frozen=True):
    data: list[_Model]


class _Fault(msgspec.Struct, frozen=True):
    message: str


class _FaultAnswer(msgspec.Struct, frozen=True):
    error: _Fault


ANYWHERE = ("", "0.0.0.0", "::")  # noqa: S104  compared with, not bound to


class WorkerControl:
    """Calls to one worker."""

    def __init__(self, address: WorkerAddress, session: ClientSession, probing: Probing) -> None:
        self._address = address
        self._session = session
        self._probing = probing
        self._base = URL.build(scheme="http", host=address.host, port=address.port)

    async def look(self) -> Sighting:
        """Return what the worker says of itself. Raises `ControlError` when it says nothing usable."""
        if self._address.kind is not Kind.BATON:
            return await self._look_at_models()
        status, body = await self._call("GET", "/ready", timeout_s=self._probing.timeout_s)
        try:
            ready = msgspec.json.decode(body, type=_Ready)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ControlError(f"/ready answered {status} without the JSON of a worker: {error}") from error
        return Sighting(
            ready=ready.ready and status == 200,
            reason=ready.reason or f"/ready answered {status}",
            models=frozenset() if ready.model is None else frozenset({ready.model}),
            incarnation=ready.incarnation,
            kv=self._kv_address(ready.kv),
            max_model_len=ready.max_model_len,
            kv_tokens_capacity=ready.kv_tokens_capacity,
            captured_batch_sizes=tuple(sorted(ready.captured_batch_sizes)),
            lockstep_group=ready.lockstep_group,
            load=ready.load,
        )

    async def shake_hands(self, kv: KvAddress) -> None:
        """Have this decode worker shake hands with the prefill worker at `kv`."""
        body = msgspec.json.encode({"host": kv.host, "port": kv.port})
        timeout_s = self._probing.handshake_timeout_s
        status, answer = await self._call("POST", "/kv/peers", body, timeout_s=timeout_s)
        if status != 200:
            raise ControlError(_reason(status, answer))

    async def abort(self, wire_id: str) -> None:
        """Have this worker drop everything it holds under `wire_id`."""
        timeout_s = self._probing.timeout_s
        if self._address.kind is Kind.SGLANG:
            body = msgspec.json.encode({"rid": wire_id})
            status, answer = await self._call("POST", "/abort_request", body, timeout_s=timeout_s)
        else:
            path = URL("/abort").joinpath(wire_id).raw_path
            status, answer = await self._call("POST", path, timeout_s=timeout_s)
        if status != 200:
            raise ControlError(_reason(status, answer))

    async def _look_at_models(self) -> Sighting:
        status, _ = await self._call("GET", "/health", timeout_s=self._probing.timeout_s)
        if status != 200:
            return Sighting(ready=False, reason=f"/health answered {status}")
        status, body = await self._call("GET", "/v1/models", timeout_s=self._probing.timeout_s)
        try:
            models = msgspec.json.decode(body, type=_Models).data
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ControlError(f"/v1/models answered {status}: {error}") from error
        lengths = [model.max_model_len for model in models if model.max_model_len is not None]
        names = frozenset(model.id for model in models)
        return Sighting(ready=True, models=names, max_model_len=min(lengths, default=None))

    def _kv_address(self, kv: _KvChannel | None) -> KvAddress | None:
        if kv is None:
            return None
        return KvAddress(host=self._address.host if kv.host in ANYWHERE else kv.host, port=kv.port)

    async def _call(
        self, method: str, path: str, body: bytes | None = None, *, timeout_s: float
    ) -> tuple[int, bytes]:
        url = self._base.with_path(path, encoded=True)
        headers = {} if body is None else {"Content-Type": "application/json"}
        timeout = ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, timeout=timeout
            ) as answer:
                return answer.status, await answer.read()
        except ClientConnectorError as error:
            if isinstance(error.os_error, ConnectionRefusedError):
                raise RefusedError("connection refused") from error
            raise ControlError(f"{path}: {error.os_error.strerror}") from error
        except TimeoutError as error:
            raise ControlError(f"{path} did not answer within {timeout_s:g} s") from error
        except (ClientError, OSError) as error:
            raise ControlError(f"{path}: {error}") from error


def _reason(status: int, answer: bytes) -> str:
    try:
        return f"{status}: {msgspec.json.decode(answer, type=_FaultAnswer).error.message}"
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"status {status}"
