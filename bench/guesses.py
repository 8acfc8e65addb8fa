"""The demo model with and without guessing ahead: tokens a step, tokens a second, over HTTP and a hand-over.

    python -P -m baton.bench.guesses [--tokens 1] [--questions 24]

Two fleets, each a prefill and a decode worker, run side by side and are asked the same questions by turns, so
that they share what else the machine does. Rates are those of streams after their first token.
"""

import argparse
import asyncio
import tempfile
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from tokenizers import Tokenizer

from ..cli.main import DEMO_MODEL
from ..tools.demo.generator import Dialogue, exam
from ..tools.demo.tokenizer import encode
from .fleet import RunningFleet, running_fleet
from .stream import Answer, stream

STREAMS = (1, 8)


class Tally(msgspec.Struct):
    """What one fleet has done at one number of streams."""

    tokens: int = 0
    """After the first of each answer"""
    seconds: float = 0.0
    texts: list[str] = []

    def add(self, answers: list[Answer]) -> None:
        """Count answers that were streamed at the same time."""
        for answer in answers:
            assert answer.usage is not None, answer.detail
            assert answer.first_at is not None
            assert answer.last_at is not None
            self.tokens += answer.usage.completion_tokens - 1
            self.texts.append(answer.text)
        self.seconds += max(a.last_at or 0.0 for a in answers) - min(a.first_at or 0.0 for a in answers)

    @property
    def rate(self) -> float:
        """Tokens a second, all streams together."""
        return self.tokens / self.seconds


async def ask(fleet: RunningFleet, dialogues: list[Dialogue]) -> list[Answer]:
    """Stream the answers to some questions at the same time."""
    bodies = [{"model": "demo", "messages": d.messages(), "temperature": 0} for d in dialogues]
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        url = f"{fleet.url}/v1/chat/completions"
        asked = [tasks.create_task(stream(session, url, body), name="question") for body in bodies]
    return [task.result() for task in asked]


def counters(fleet: RunningFleet) -> dict[str, float]:
    """The decode worker's counters by name, labels added up."""
    with urllib.request.urlopen(f"{fleet.workers['decode-0']}/metrics", timeout=60) as response:
        families = text_string_to_metric_families(response.read().decode())
        return {family.name: sum(sample.value for sample in family.samples) for family in families}


def measure(fleets: dict[str, RunningFleet], questions: list[Dialogue]) -> bool:
    """Ask all questions of all fleets and print what they did; tell whether the answers were the same."""
    is_same = True
    for streams in STREAMS:
        tallies = {name: Tally() for name in fleets}
        groups = [questions[at : at + streams] for at in range(0, len(questions), streams)]
        for group in groups:
            for name, fleet in fleets.items():
                tallies[name].add(asyncio.run(ask(fleet, group)))
        first, *others = tallies.values()
        is_same = is_same and all(tally.texts == first.texts for tally in others)
        for name, tally in tallies.items():
            ratio = tally.rate / first.rate
            print(f"{streams} streams, {name}: {tally.rate:.0f} tokens/s, {ratio:.2f} of one by one")
    return is_same


def report_guesses(name: str, counted: dict[str, float]) -> None:
    """Print how many guesses were right, if any were made."""
    drafts = counted.get("vllm:spec_decode_num_drafts", 0.0)
    if drafts:
        a_step = 1 + counted["vllm:spec_decode_num_accepted_tokens"] / drafts
        print(f"{name}: {a_step:.2f} tokens a step, {counted['baton_draft_acceptance']:.2f} accepted")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[1], help="guesses a step; several: a fleet each"
    )
    parser.add_argument("--questions", type=int, default=24)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    questions = list(exam(5, arguments.questions, 50, 400, lambda text: len(encode(tokenizer, text))))
    settings = {"one by one": "speculative=null"}
    settings |= {f"{count} guessed": f"speculative.tokens={count}" for count in arguments.tokens}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fleets = {
            name: stack.enter_context(
                running_fleet(scratch / f"{at}.log", "--threads", "1", "--set", setting)
            )
            for at, (name, setting) in enumerate(settings.items())
        }
        for fleet in fleets.values():
            asyncio.run(ask(fleet, questions[:2]))  # first calls
        is_same = measure(fleets, questions)
        for name, fleet in fleets.items():
            report_guesses(name, counters(fleet))
    print(f"guesses: answers {'the same' if is_same else 'DIFFER'} (target the same)")
    raise SystemExit(not is_same)


if __name__ == "__main__":
    main()
