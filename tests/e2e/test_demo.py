"""What a newcomer does works: the printed curl line streams a right answer, the chat says what it took."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator

import pytest

from baton.bench.fleet import RunningFleet, running_fleet
from baton.cli.answers import parse_chunk, text_of
from baton.cli.fleet import FleetPlan, demo_request
from baton.cli.fleet_messages import Address
from baton.cli.sse import DONE, SseParser


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
