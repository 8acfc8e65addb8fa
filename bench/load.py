"""Load on a running fleet: many streams at once for a while, each checked to its end; then the books.

    python -P -m baton.bench.load --url http://127.0.0.1:8000 --streams 64 --duration 120

Every client asks one question after another: facts of mixed number, then a question whose answer stands in
the prompt. Exit status 1 on any error, cut stream, leaked block or open hand-over; `--allow-error-events`
permits the SSE error events of streams whose decode worker was killed on purpose.
"""

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Callable

import aiohttp
import msgspec

from .leaks import find_leaks
from .prompts import draw_recall
from .stream import Answer, Outcome, stream
from .table import ms, percentile, render

SETTLE_S = 15.0


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask, of whom and for how long."""

    url: str
    model: str
    streams: int
    duration_s: float
    min_facts: int
    max_facts: int
    max_tokens: int
    seed: int = 0
    extra: dict[str, object] = {}
    """Further fields of every request."""


class LoadResult(msgspec.Struct, kw_only=True):
    """All answers, and which of them held the right code."""

    answers: list[Answer] = msgspec.field(default_factory=list)
    right: int = 0
    elapsed_s: float = 0.0

    @property
    def outcomes(self) -> Counter[Outcome]:
        """How many streams ended in each way."""
        return Counter(answer.outcome for answer in self.answers)

    def failures(self, allowed: set[Outcome]) -> list[Answer]:
        """The answers that ended in a way that is not allowed."""
        return [answer for answer in self.answers if answer.outcome not in {Outcome.WHOLE, *allowed}]


async def run_load(
    plan: LoadPlan, *, stop: asyncio.Event | None = None, on_answer: Callable[[Answer], None] | None = None
) -> LoadResult:
    """Run all clients until the time is up, or `stop` is set, and their last streams have ended."""
    result = LoadResult()
    run = _Run(plan, result, stop or asyncio.Event(), on_answer or (lambda _: None))
    started = time.perf_counter()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tasks:
        for number in range(plan.streams):
            rng = random.Random(f"{plan.seed} {number}")
            tasks.create_task(run.client(session, rng, started), name=f"client {number}")
    result.elapsed_s = time.perf_counter() - started
    return result


class _Run:
    """What all clients of a run share."""

    def __init__(
        self, plan: LoadPlan, result: LoadResult, stop: asyncio.Event, on_answer: Callable[[Answer], None]
    ) -> None:
        self._plan = plan
        self._result = result
        self._stop = stop
        self._on_answer = on_answer

    async def client(self, session: aiohttp.ClientSession, rng: random.Random, started: float) -> None:
        """Ask one question after another."""
        plan = self._plan
        while time.perf_counter() - started < plan.duration_s and not self._stop.is_set():
            recall = draw_recall(rng, rng.randint(plan.min_facts, plan.max_facts))
            body = {
                "model": plan.model,
                "messages": [{"role": "user", "content": recall.prompt}],
                "max_tokens": plan.max_tokens,
                "temperature": 0,
                **plan.extra,
            }
            answer = await stream(session, f"{plan.url}/v1/chat/completions", body)
            self._result.answers.append(answer)
            self._result.right += answer.outcome is Outcome.WHOLE and recall.code in answer.text
            self._on_answer(answer)
            if answer.outcome in {Outcome.REFUSED, Outcome.BROKEN}:
                await asyncio.sleep(0.1)  # an unreachable server would otherwise be hammered


def report(result: LoadResult) -> str:
    """Return the tables of a run."""
    whole = [answer for answer in result.answers if answer.outcome is Outcome.WHOLE]
    tokens = sum(answer.usage.completion_tokens for answer in whole if answer.usage)
    prompt_tokens = sum(answer.usage.prompt_tokens for answer in whole if answer.usage)
    shipped = sum(answer.baton.kv_bytes or 0 for answer in whole if answer.baton)
    recomputed = sum(answer.baton.recomputed for answer in whole if answer.baton)
    ttfts = [answer.ttft_s for answer in whole if answer.ttft_s is not None]
    counts = [[outcome.value, str(count)] for outcome, count in result.outcomes.most_common()]
    figures = [
        ["right answers", f"{result.right} of {len(whole)}"],
        ["streams/s", f"{len(whole) / result.elapsed_s:.1f}"],
        ["output tokens/s", f"{tokens / result.elapsed_s:.0f}"],
        ["prompt tokens/s", f"{prompt_tokens / result.elapsed_s:.0f}"],
        ["KV shipped, MiB", f"{shipped / 1024**2:.1f}"],
        ["prompts recomputed on decode", str(recomputed)],
        *([f"TTFT p{share}, ms", ms(percentile(ttfts, share / 100))] for share in (50, 90, 99)),
        ["TTFT longest, ms", ms(max(ttfts, default=float("nan")))],
    ]
    return f"{render(['streams ended', ''], counts)}\n\n{render(['figure', ''], figures)}"


async def _discover(url: str, model: str | None) -> tuple[str, dict[str, str]]:
    """Return the model to ask for and the workers' base URLs by name, as the proxy tells them."""
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with session.get(f"{url}/v1/models") as answer:
            models = [each["id"] for each in (await answer.json())["data"]]
        async with session.get(f"{url}/fleet") as answer:
            workers = {each["name"]: each["url"] for each in (await answer.json())["workers"]}
    return model or models[0], workers


async def _main(arguments: argparse.Namespace) -> int:
    url = arguments.url.rstrip("/")
    model, workers = await _discover(url, arguments.model)
    plan = LoadPlan(
        url=url,
        model=model,
        streams=arguments.streams,
        duration_s=arguments.duration,
        min_facts=arguments.min_facts,
        max_facts=arguments.max_facts,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
    )
    print(f"{plan.streams} streams for {plan.duration_s:g} s on {url}, {len(workers)} workers", flush=True)
    result = await run_load(plan)
    print(report(result))
    allowed = {Outcome.ERROR_EVENT} if arguments.allow_error_events else set()
    failures = result.failures(allowed)
    for text, count in Counter(f"{each.outcome.value}: {each.detail}" for each in failures).most_common(10):
        print(f"FAILED {count} x {text}")
    leaks = await find_leaks(url, workers, settle_s=SETTLE_S)
    for leak in leaks:
        print(f"LEAK {leak}")
    passed = bool(result.answers) and not failures and not leaks
    verdict = "passed" if passed else "FAILED"
    print(f"load: {verdict}, {len(result.answers)} streams, {len(failures)} failures, {len(leaks)} leaks")
    return 0 if passed else 1


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the proxy")
    parser.add_argument("--model", help="model id; the first that the proxy lists")
    parser.add_argument("--streams", type=int, default=64, help="streams at once")
    parser.add_argument("--duration", type=float, default=120.0, help="seconds in which streams are started")
    parser.add_argument(
        "--min-facts", type=int, default=2, help="facts in the shortest prompt, 12 tokens each"
    )
    parser.add_argument("--max-facts", type=int, default=60, help="facts in the longest prompt")
    parser.add_argument("--max-tokens", type=int, default=48, help="longest answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--allow-error-events", action="store_true", help="SSE error events are no failure")
    sys.exit(asyncio.run(_main(parser.parse_args())))


if __name__ == "__main__":
    main()
