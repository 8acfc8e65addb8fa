"""How many answers of the training model are exactly right, by one forward pass each.

An answer whose every token is the most likely one after the right beginning is exactly what greedy
decoding would write.  Called by `train.py`.
"""

import random
from collections import Counter
from collections.abc import Iterable

import torch
from tokenizers import Tokenizer

from .generator import Dialogue, exam, prompt_tokens
from .model import DemoModel
from .tokenizer import encode, encode_dialogue

REPORTED_LENGTHS = (64, 128, 256, 512, 1000)


@torch.no_grad()
def is_right(model: DemoModel, tokenizer: Tokenizer, dialogue: Dialogue) -> bool:
    """Whether greedy decoding answers the last question exactly."""
    ids, _ = encode_dialogue(tokenizer, dialogue)
    start = prompt_tokens(dialogue, lambda text: len(encode(tokenizer, text)))
    best = model(torch.tensor([ids]))[0, start - 1 : -1].argmax(-1).tolist()
    return bool(best == ids[start:])


def tally(
    model: DemoModel, tokenizer: Tokenizer, dialogues: Iterable[Dialogue]
) -> tuple[Counter[str], Counter[str]]:
    """Right and asked answers by kind, "all" among them."""
    model.eval()
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for dialogue in dialogues:
        kinds = ("all", dialogue.turns[-1].kind.value)
        asked.update(kinds)
        if is_right(model, tokenizer, dialogue):
            right.update(kinds)
    model.train()
    return right, asked


def summary(model: DemoModel, tokenizer: Tokenizer, rng: random.Random, count: int = 16) -> str:
    """Accuracy on `count` fresh prompts at each reported length, recall apart."""
    parts = []
    for tokens in REPORTED_LENGTHS:
        dialogues = exam(
            rng.getrandbits(32), count, tokens * 3 // 4, tokens, lambda text: len(encode(tokenizer, text))
        )
        right, asked = tally(model, tokenizer, dialogues)
        parts.append(f"{tokens}: {right['all']}/{asked['all']} (recall {right['recall']}/{asked['recall']})")
    return "; ".join(parts)
