"""What routers and operators ask of a worker: alive, ready, metrics, abort, peers, self-check."""

from typing import Any

import msgspec
from aiohttp import web

from ... import __version__
from ..messages import BlockCounts, EngineStats, RankStanding
from .bodies import json_response, read_request
from .engine_client import EngineState
from .errors import ApiError
from .frontend import FRONTEND
from .schema import ConnectPeerRequest

_CONNECT_PEER = msgspec.json.Decoder(ConnectPeerRequest)

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ControlAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where decode workers reach this worker's KV control channel."""

    host: str
    port: int


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has to do and what it has room for."""

    running: int
    """Requests that are being computed."""
    waiting: int
    """Requests that wait for room, or for their KV."""
    kv_tokens_free: int
    """Tokens whose KV there is room for, cached blocks that nobody uses included."""


class ReadyReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`GET /ready` of a worker that serves."""

    ready: bool
    name: str
    role: str
    model: str
    incarnation: str
    kv: ControlAddress
    peers: list[str]
    """Incarnations shaken hands with."""
    max_model_len: int
    kv_tokens_capacity: int
    block_tokens: int
    captured_batch_sizes: list[int]
    """Ascending sizes that decode batches are padded to, captured or not; empty: they are not."""
    lockstep_group: str | None
    """The same on all ranks that take every step together; null: none but this one."""
    load: Load | None
    """As the engine last told; null: it has not."""
    ranks: RankStanding | None = None
    """Its place among them, as the engine last told; absent: no rank, or of a group that cannot change."""


class NotReady(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /ready` of a worker that does not serve."""

    ready: bool
    reason: str


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /check`: the engine's self-check."""

    ok: bool
    problems: list[str]
    blocks: BlockCounts
    leases: int
    pulls: int
    requests: int


async def health(http: web.Request) -> web.Response:
    """`GET /health`: 200 and empty while the worker lives, loading or not."""
    lost = http.app[FRONTEND].engine.state is EngineState.LOST
    return web.Response(status=503 if lost else 200)


async def ready(http: web.Request) -> web.Response:
    """`GET /ready`: 200 once the model is loaded and the KV control channel open."""
    frontend = http.app[FRONTEND]
    reason = frontend.not_ready_reason()
    engine = frontend.engine.ready
    if reason is not None or engine is None:
        return json_response(NotReady(ready=False, reason=reason or "loading"), status=503)
    return json_response(
        ReadyReport(
            ready=True,
            name=frontend.name,
            role=frontend.config.role.value,
            model=frontend.model_name,
            incarnation=engine.incarnation,
            kv=ControlAddress(host=engine.kv_host, port=engine.kv_port),
            peers=frontend.engine.peers(),
            max_model_len=engine.max_model_len,
            kv_tokens_capacity=(engine.num_blocks - 1) * engine.block_tokens,  # without the null block
            block_tokens=engine.block_tokens,
            captured_batch_sizes=engine.bucket_sizes,
            lockstep_group=engine.lockstep_group,
            ranks=None if frontend.engine.stats is None else frontend.engine.stats.ranks,
            load=_load(frontend.engine.stats, engine.block_tokens),
        )
    )


def _load(stats: EngineStats | None, block_tokens: int) -> Load | None:
    if stats is None:
        return None
    return Load(
        running=stats.running,
        waiting=stats.waiting + stats.waiting_for_kv,
        kv_tokens_free=(stats.blocks.free + stats.blocks.cached) * block_tokens,
    )


async def version(http: web.Request) -> web.Response:
    """`GET /version`."""
    return json_response({"version": __version__})


async def metrics(http: web.Request) -> web.Response:
    """`GET /metrics`."""
    body = http.app[FRONTEND].metrics.render()
    return web.Response(body=body, headers={"Content-Type": METRICS_CONTENT_TYPE})


async def abort(http: web.Request) -> web.Response:
    """`POST /abort/{request_id}`: end everything with this X-Request-Id and release its leases."""
    result = await http.app[FRONTEND].engine.abort_external(http.match_info["request_id"])
    return json_response({"aborted": result.aborted, "released": result.released})


async def connect_peer(http: web.Request) -> web.Response:
    """`POST /kv/peers`: shake hands with a prefill worker's control channel now."""
    frontend = http.app[FRONTEND]
    peer = await read_request(http, _CONNECT_PEER, max_bytes=frontend.config.max_body_bytes)
    result = await frontend.engine.connect_peer(peer.host, peer.port)
    if result.error is not None:
        where = f"{peer.host}:{peer.port}"
        raise ApiError(502, f"handshake with {where} failed: {result.error}", code="handshake_failed")
    return json_response({"incarnation": result.incarnation})


async def check(http: web.Request) -> web.Response:
    """`GET /check`: the engine's integrity self-check."""
    report = await http.app[FRONTEND].engine.check_integrity()
    values: dict[str, Any] = msgspec.structs.asdict(report)
    del values["call_id"]
    return json_response(Check(ok=not report.problems, **values))
