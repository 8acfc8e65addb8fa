"""A speed is told only where tokens came one after the other."""

import asyncio
import json

import pytest

from baton.bench.engine.workload import HeldUpError, decode_workload, run_workload

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(data: str) -> bytes:
    event = f"data: {data}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(event), event)


def token(number: int, finish: str | None = None) -> bytes:
    choice = {"index": 0, "text": "x", "token_ids": [number], "finish_reason": finish}
    return chunked(json.dumps({"id": "a", "choices": [choice]}))


async def test_tokens_that_were_read_all_at_once_tell_no_speed() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        usage = chunked(
            json.dumps({"id": "a", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
        )
        writer.write(HEAD + token(7) + token(8, "length") + usage + chunked("[DONE]") + b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1")
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(HeldUpError):
            await run_workload(f"http://127.0.0.1:{port}", decode_workload(1, 2), [[1, 2]])
