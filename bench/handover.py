"""Hand-over, decode and prefill speed of one prefill and one decode worker over real NIXL.

    python -P -m baton.bench.handover           # `make bench-handover`

A hand-over is everything between the end of prefill and the first token of decode: the prefill worker's
answer, the proxy, admission, the pull, the first step. It is measured from outside, as the client's time to
the first token minus the prefill worker's own computing time, so the client's and the proxy's hops and the
parsing count in too. The target is 15 ms plus the time that the shipped bytes take at the bandwidth of a bare
NIXL READ measured in the same run.

The last line is `handover: ...`; the exit status says whether the target holds at every prompt length.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
from pathlib import Path

import aiohttp
import msgspec

from .bare_read import Bandwidths, measure
from .checkpoint import VOCABULARY, make_bench_checkpoint
from .fleet import running_fleet
from .prompts import draw_token_ids
from .stream import Answer, Outcome, stream
from .table import ms, render

TARGET_FIXED_S = 0.015
PROMPT_TOKENS = (64, 256, 1024, 2048)
BATCHES = (1, 8, 32)
REPEATS = 15
WARM_UPS = 3
DECODE_PROMPT_TOKENS = 32
DECODE_TOKENS = 64
PREFILL_TOKENS = 1000
BLOCK_TOKENS = 64
LAYERS_TIMES_WIDTH_BYTES = 4 * 576 * 4  # layers x (latent + rope) x float32


class HandoverFigure(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over the repeats at one prompt length."""

    prompt_tokens: int
    kv_bytes: int
    ttft_s: float
    prefill_s: float
    handover_s: float
    """Client's TTFT less prefill's computing."""
    transfer_s: float
    first_step_s: float
    bare_read_s: float
    memcpy_s: float

    @property
    def target_s(self) -> float:
        """What `handover_s` may be."""
        return TARGET_FIXED_S + self.bare_read_s


class DecodeFigure(msgspec.Struct, frozen=True, kw_only=True):
    """Speed of decode at one batch size."""

    batch: int
    per_stream: float
    together: float


async def complete(session: aiohttp.ClientSession, url: str, prompt: list[int], tokens: int) -> Answer:
    """Stream one completion of exactly `tokens` tokens. Exits the bench when it fails."""
    body: dict[str, object] = {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    answer = await stream(session, f"{url}/v1/completions", body)
    if answer.outcome is not Outcome.WHOLE or answer.baton is None:
        raise SystemExit(f"a request failed: {answer.outcome.value} {answer.detail}")
    if answer.baton.recomputed:
        raise SystemExit("a hand-over failed: the decode worker recomputed the prompt")
    return answer


async def measure_handover(
    session: aiohttp.ClientSession, url: str, rng: random.Random, prompt_tokens: int, limit: Bandwidths
) -> HandoverFigure:
    """Measure fresh prompts of one length, one at a time."""
    answers = []
    for number in range(WARM_UPS + REPEATS):
        answer = await complete(session, url, draw_token_ids(rng, prompt_tokens, VOCABULARY), 2)
        answers += [answer] if number >= WARM_UPS else []

    def median(name: str) -> float:
        return statistics.median(_phase(answer, name) for answer in answers)

    kv_bytes = int(statistics.median(answer.baton.kv_bytes or 0 for answer in answers if answer.baton))
    return HandoverFigure(
        prompt_tokens=prompt_tokens,
        kv_bytes=kv_bytes,
        ttft_s=statistics.median(answer.ttft_s or 0.0 for answer in answers),
        prefill_s=median("prefill_s"),
        handover_s=statistics.median(
            (answer.ttft_s or 0.0) - _phase(answer, "prefill_s") for answer in answers
        ),
        transfer_s=median("transfer_s"),
        first_step_s=median("first_step_s"),
        bare_read_s=kv_bytes / limit.nixl_bytes_per_s,
        memcpy_s=kv_bytes / limit.memcpy_bytes_per_s,
    )


def _phase(answer: Answer, name: str) -> float:
    assert answer.baton is not None
    assert answer.baton.phases is not None
    phases: dict[str, float | None] = msgspec.structs.asdict(answer.baton.phases)
    return phases[name] or 0.0


async def measure_decode(
    session: aiohttp.ClientSession, url: str, rng: random.Random, batch: int
) -> DecodeFigure:
    """Run `batch` streams at once, twice; the second time counts."""
    for _ in range(2):
        async with asyncio.TaskGroup() as tasks:
            prompts = [draw_token_ids(rng, DECODE_PROMPT_TOKENS, VOCABULARY) for _ in range(batch)]
            running = [tasks.create_task(complete(session, url, prompt, DECODE_TOKENS)) for prompt in prompts]
        answers = [task.result() for task in running]
    firsts = [answer.first_at or 0.0 for answer in answers]
    lasts = [answer.last_at or 0.0 for answer in answers]
    return DecodeFigure(
        batch=batch,
        per_stream=statistics.median(answer.tokens_per_s or 0.0 for answer in answers),
        together=batch * (DECODE_TOKENS - 1) / (max(lasts) - min(firsts)),
    )


async def measure_prefill(session: aiohttp.ClientSession, url: str, rng: random.Random) -> float:
    """Return prompt tokens a second of the prefill worker, over fresh prompts one at a time."""
    rates = []
    for _ in range(5):
        answer = await complete(session, url, draw_token_ids(rng, PREFILL_TOKENS, VOCABULARY), 1)
        rates.append(PREFILL_TOKENS / _phase(answer, "prefill_s"))
    return statistics.median(rates)


async def _run(url: str, limit: Bandwidths) -> tuple[list[HandoverFigure], list[DecodeFigure], float]:
    rng = random.Random(0)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        handovers = [await measure_handover(session, url, rng, length, limit) for length in PROMPT_TOKENS]
        decodes = [await measure_decode(session, url, rng, batch) for batch in BATCHES]
        return handovers, decodes, await measure_prefill(session, url, rng)


def _handover_table(figures: list[HandoverFigure]) -> str:
    header = ["prompt tokens", "KV MiB", "TTFT", "prefill", "hand-over", "target", "pull", "first step",
              "bare READ", "memcpy"]  # fmt: skip
    rows = [
        [
            str(each.prompt_tokens),
            f"{each.kv_bytes / 1024**2:.2f}",
            *(ms(s) for s in (each.ttft_s, each.prefill_s, each.handover_s, each.target_s)),
            *(ms(s) for s in (each.transfer_s, each.first_step_s, each.bare_read_s, each.memcpy_s)),
        ]
        for each in figures
    ]
    return render(header, rows) + "\n(medians, ms)"


def main() -> None:
    """Make the checkpoint, start the fleet, measure, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, help="compute threads a worker; its share of the cores")
    arguments = parser.parse_args()
    limit = measure(BLOCK_TOKENS * LAYERS_TIMES_WIDTH_BYTES, blocks=PROMPT_TOKENS[-1] // BLOCK_TOKENS)
    print(
        f"limits of this run: bare NIXL READ {limit.nixl_bytes_per_s / 1e9:.2f} GB/s, "
        f"memory copy {limit.memcpy_bytes_per_s / 1e9:.2f} GB/s",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as folder:
        model = make_bench_checkpoint(Path(folder) / "model")
        flags = ["--model", str(model), "--set", f"block_tokens={BLOCK_TOKENS}"]
        flags += ["--threads", str(arguments.threads)] if arguments.threads else []
        with running_fleet(Path(folder) / "fleet.log", *flags) as fleet:
            handovers, decodes, prefill = asyncio.run(_run(fleet.url, limit))
    print("\n" + _handover_table(handovers))
    rows = [[str(each.batch), f"{each.per_stream:.0f}", f"{each.together:.0f}"] for each in decodes]
    print("\n" + render(["decode, batch", "tokens/s a stream", "tokens/s together"], rows))
    print(f"\nprefill: {prefill:.0f} tokens/s at {PREFILL_TOKENS} tokens\n")
    sys.exit(_judge(handovers))


def _judge(figures: list[HandoverFigure]) -> int:
    worst = max(figures, key=lambda figure: figure.handover_s - figure.target_s)
    print(
        f"handover: {ms(worst.handover_s)} ms at {worst.prompt_tokens} prompt tokens "
        f"(target <= 15 ms + bytes/bandwidth = {ms(worst.target_s)} ms)"
    )
    return 0 if all(figure.handover_s <= figure.target_s for figure in figures) else 1


if __name__ == "__main__":
    main()
