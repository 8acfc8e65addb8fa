"""Requests of a trace in Mooncake's format: one JSON object a line.

    {"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [id, id, ...]}

An id stands for a block of 512 tokens, the last one perhaps for a part of it. Equal ids mean equal prefixes
up to and including that block.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

TRACE_BLOCK_TOKENS = 512


class TraceError(ValueError):
    """A trace that cannot be read; the message names the file and the line."""


class TraceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request to be simulated."""

    at_s: float
    prompt_tokens: int
    output_tokens: int
    keys: tuple[int, ...]
    """One for each whole block of the prompt; equal keys mean equal prefixes."""


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    timestamp: Annotated[float, msgspec.Meta(ge=0)]
    input_length: Annotated[int, msgspec.Meta(ge=1)]
    output_length: Annotated[int, msgspec.Meta(ge=1)]
    hash_ids: tuple[int, ...]


_decoder = msgspec.json.Decoder(_Row)


def read_trace(path: Path, *, limit: int | None = None) -> list[TraceRequest]:
    """Return the first `limit` requests of a trace. Raises `TraceError`."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines[:limit], start=1):
        try:
            rows.append(_request(_decoder.decode(line)))
        except msgspec.DecodeError as error:
            raise TraceError(f"{path}: line {number}: {error}") from error
    if not rows:
        raise TraceError(f"{path}: no requests in it")
    return sorted(rows, key=lambda row: row.at_s)


def rescaled(trace: Iterable[TraceRequest], speed: float) -> list[TraceRequest]:
    """Return the requests `speed` times as fast."""
    return [msgspec.structs.replace(row, at_s=row.at_s / speed) for row in trace]


def _request(row: _Row) -> TraceRequest:
    whole = row.input_length // TRACE_BLOCK_TOKENS
    return TraceRequest(
        at_s=row.timestamp / 1000,
        prompt_tokens=row.input_length,
        output_tokens=row.output_length,
        keys=row.hash_ids[:whole],
    )
