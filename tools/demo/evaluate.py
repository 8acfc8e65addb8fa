"""Examine the demo model: fresh questions, exact answers, accuracy by kind and by prompt length.

    python -m baton.tools.demo.evaluate --model models/demo                        # transformers, greedy
    python -m baton.tools.demo.evaluate --model models/demo --url http://127.0.0.1:8000   # a running server

A wrong answer is printed beside the right one.  The exit status is 0 when `--at-least` is reached.
"""

import argparse
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from .generator import Dialogue, exam, prompt_tokens
from .tokenizer import encode

_BANDS = (100, 200, 400, 700, 1000)  # upper ends, in prompt tokens, of the lengths reported apart
_MOST_TOKENS = 96  # longer than any right answer
_REQUEST_TIMEOUT_S = 120.0

Answerer = Callable[[Dialogue], str]


class ServerRefusedError(Exception):
    """The server answered a chat request with an error status."""


def transformers_answerer(folder: Path, dtype: torch.dtype) -> Answerer:
    """Greedy generation in this process by transformers, computing in `dtype`."""
    from transformers import AutoTokenizer, DeepseekV3ForCausalLM  # noqa: PLC0415  (seconds to import)

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = DeepseekV3ForCausalLM.from_pretrained(folder, dtype=dtype).train(False)

    def answer(dialogue: Dialogue) -> str:
        inputs: Any = tokenizer.apply_chat_template(
            dialogue.messages(), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, do_sample=False, max_new_tokens=_MOST_TOKENS)
        text: str = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return text

    return answer


def server_answerer(url: str, model: str) -> Answerer:
    """Greedy answers of an OpenAI-compatible server at `url` (without `/v1`)."""

    def answer(dialogue: Dialogue) -> str:
        body = {"model": model, "messages": dialogue.messages(), "temperature": 0, "max_tokens": _MOST_TOKENS}
        request = urllib.request.Request(
            f"{url.rstrip('/')}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_REQUEST_TIMEOUT_S) as response:
                reply = json.load(response)
        except urllib.error.HTTPError as error:
            raise ServerRefusedError(
                f"{error.code} from {url}: {error.read().decode(errors='replace')}"
            ) from error
        text: str = reply["choices"][0]["message"]["content"] or ""
        return text

    return answer


def served_model(url: str) -> str:
    """The first model that the server at `url` lists."""
    with urllib.request.urlopen(f"{url.rstrip('/')}/v1/models", timeout=_REQUEST_TIMEOUT_S) as response:
        name: str = json.load(response)["data"][0]["id"]
    return name


def examine(
    dialogues: Iterable[tuple[int, Dialogue]], answer: Answerer, concurrency: int
) -> tuple[Counter[str], Counter[str]]:
    """Right and asked questions by kind, by length band and in all; with each dialogue its prompt tokens."""
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    questions = list(dialogues)
    with ThreadPoolExecutor(concurrency) as pool:
        replies = pool.map(lambda question: answer(question[1]), questions)
        for (tokens, dialogue), reply in zip(questions, replies, strict=True):
            groups = ("all", dialogue.turns[-1].kind.value, _band(tokens))
            asked.update(groups)
            if dialogue.is_right(reply):
                right.update(groups)
            else:
                print(f"wrong at {tokens} tokens: {reply.strip()!r}, right is {dialogue.turns[-1].answer!r}")
    return right, asked


def _band(tokens: int) -> str:
    return next((f"up to {end:4d} tokens" for end in _BANDS if tokens <= end), f"over {_BANDS[-1]} tokens")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", type=Path, required=True, help="Hugging Face folder; its tokenizer counts lengths"
    )
    parser.add_argument("--url", help="ask this server instead of transformers")
    parser.add_argument("--served-model", help="model name to ask the server for (default: its first)")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--shortest", type=int, default=50, help="prompt tokens")
    parser.add_argument("--longest", type=int, default=1000, help="prompt tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--concurrency", type=int, default=4, help="requests at a time to the server")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation"
    )
    parser.add_argument("--at-least", type=float, default=0.99, help="share that must be right")
    return parser.parse_args()


def main() -> None:
    """Ask, print the figures, and say by the exit status whether they suffice."""
    arguments = _arguments()
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))

    def measure(text: str) -> int:
        return len(encode(tokenizer, text))

    drawn = exam(arguments.seed, arguments.count, arguments.shortest, arguments.longest, measure)
    questions = [(prompt_tokens(dialogue, measure), dialogue) for dialogue in drawn]
    if arguments.url:
        answer = server_answerer(arguments.url, arguments.served_model or served_model(arguments.url))
    else:
        answer = transformers_answerer(arguments.model, getattr(torch, arguments.dtype))
    began = time.monotonic()
    right, asked = examine(questions, answer, arguments.concurrency if arguments.url else 1)
    for group in sorted(asked):
        print(f"{group:20s} {right[group]:4d} of {asked[group]:4d}")
    share = right["all"] / asked["all"]
    print(f"exactly right: {share:.1%} ({time.monotonic() - began:.0f} s)")
    raise SystemExit(0 if share >= arguments.at_least else 1)


if __name__ == "__main__":
    main()
