"""What a newcomer does works: the printed curl line streams a right answer, the chat says what it took."""

import json
import shlex
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tokenizers import Tokenizer

from baton.bench.fleet import RunningFleet, running_fleet
from baton.cli.answers import parse_chunk, text_of
from baton.cli.fleet import FleetPlan, demo_request
from baton.cli.fleet_messages import Address
from baton.cli.main import DEMO_MODEL
from baton.cli.sse import DONE, SseParser
from baton.engine.models import load_model
from baton.tools.demo.evaluate import server_answerer
from baton.tools.demo.generator import exam, prompt_tokens
from baton.tools.demo.tokenizer import EOS_ID, encode, encode_dialogue
from support.driver import Driver


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFleet]:
    with running_fleet(tmp_path_factory.mktemp("demo") / "log") as fleet:
        yield fleet


def test_the_printed_line_streams_the_code_that_stands_in_the_prompt(demo: RunningFleet) -> None:
    host, port = demo.url.removeprefix("http://").split(":")
    plan = FleetPlan(model="", served_model_name="demo", host=host, port=int(port), prefill=1, decode=1)
    words = shlex.split(demo_request(plan, Address(host, int(port))))

    done = subprocess.run(words, capture_output=True, timeout=60, check=True)

    *events, last = SseParser().feed(done.stdout)
    assert last == DONE
    assert "4827" in "".join(text_of(parse_chunk(event)) for event in events)


def test_the_chat_says_what_an_answer_took(demo: RunningFleet) -> None:
    question = "The code of the red door is 7391. What is the code of the red door?\n"
    command = [sys.executable, "-P", "-m", "baton.cli", "chat", "--url", demo.url]

    done = subprocess.run(command, input=question, capture_output=True, text=True, timeout=60, check=True)

    answer, report = done.stdout.strip().splitlines()
    assert "7391" in answer
    assert report.startswith("prefill-0 -> decode-0 | ")
    for words in ("prompt tokens", "KV shipped", "queue", "prefill", "transfer", "first step", "tokens/s"):
        assert words in report


def test_the_fleet_lists_its_workers(demo: RunningFleet) -> None:
    done = subprocess.run(["curl", "-s", f"{demo.url}/fleet"], capture_output=True, timeout=60, check=True)

    assert [worker["name"] for worker in json.loads(done.stdout)["workers"]] == ["prefill-0", "decode-0"]


def test_its_answers_are_guessed_ahead_and_those_of_decoding_one_at_a_time(demo: RunningFleet) -> None:
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))

    def measure(text: str) -> int:
        return len(encode(tokenizer, text))

    dialogues = list(exam(11, 8, 50, 300, measure))
    model = load_model(DEMO_MODEL)
    ask = server_answerer(demo.url, "demo")
    for dialogue in dialogues:
        ids, _ = encode_dialogue(tokenizer, dialogue)
        driver = Driver(model)
        prompt = driver.sequence(ids[: prompt_tokens(dialogue, measure)])
        [tokens] = driver.generate([prompt], 60)
        assert ask(dialogue) == tokenizer.decode(tokens[: tokens.index(EOS_ID)])

    metrics = urllib.request.urlopen(f"{demo.workers['decode-0']}/metrics", timeout=60).read().decode()
    drafted, accepted = (
        _counter(metrics, f"vllm:spec_decode_num_{kind}_tokens") for kind in ("draft", "accepted")
    )
    assert accepted > 0.8 * drafted > 0


def _counter(metrics: str, name: str) -> float:
    families = {family.name: family for family in text_string_to_metric_families(metrics)}
    return sum(sample.value for sample in families[name].samples)
