"""Is anything left behind? Asks workers and proxy until they are idle, then compares their books."""

import asyncio
import time
from typing import Any

import aiohttp


async def find_leaks(proxy: str | None, workers: dict[str, str], *, settle_s: float) -> list[str]:
    """Return what is wrong once everything had `settle_s` seconds to fall idle; empty when nothing is.

    `proxy` and the values of `workers` are base URLs.
    """
    deadline = time.monotonic() + settle_s
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(10)) as session:
        while True:
            problems = await _problems(session, proxy, workers)
            if not problems or time.monotonic() > deadline:
                return problems
            await asyncio.sleep(0.2)


async def _problems(session: aiohttp.ClientSession, proxy: str | None, workers: dict[str, str]) -> list[str]:
    found = []
    for name, url in workers.items():
        found += [f"{name}: {problem}" for problem in worker_problems(await _get(session, f"{url}/check"))]
    if proxy is not None:
        found += [f"proxy: {problem}" for problem in fleet_problems(await _get(session, f"{proxy}/fleet"))]
    return found


async def _get(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    try:
        async with session.get(url) as answer:
            body = await answer.json()
            return body if isinstance(body, dict) else {"unexpected": body}
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return {"error": f"{url}: {error or type(error).__name__}"}


def worker_problems(check: dict[str, Any]) -> list[str]:
    """Return what a worker's `/check` shows to be wrong or left over in an idle worker."""
    if check.get("ok") is not True:
        return [f"self-check failed: {check}"]
    blocks = check["blocks"]
    left = {key: blocks[key] for key in ("in_use", "quarantined") if blocks[key]}
    left |= {key: check[key] for key in ("leases", "pulls", "requests") if check[key]}
    return [f"left behind: {left}"] if left else []


def fleet_problems(fleet: dict[str, Any]) -> list[str]:
    """Return what the proxy's `/fleet` shows to be left over in an idle proxy."""
    if "error" in fleet:
        return [str(fleet["error"])]
    left: dict[str, Any] = {
        f"hand-overs {state}": count for state, count in fleet["handovers"].items() if count
    }
    for worker in fleet["workers"]:
        held = {"tokens to hand over": worker["handover_tokens"]}
        held |= {f"{leg} requests": worker[leg]["requests"] for leg in ("prefill", "decode")}
        left |= {f"{worker['name']}: {what}": count for what, count in held.items() if count}
    return [f"left behind: {left}"] if left else []
