"""Training batches: conversations as rectangles of token ids.

Every batch is fresh: it follows from the run's seed, the step and the process alone, so nothing about
the data needs saving.  Called by `train.py`.
"""

import random

import msgspec
import torch
from tokenizers import Tokenizer
from torch import Tensor

from .generator import training_dialogue
from .tokenizer import EOS_ID, encode, encode_dialogue

STEP_TOKENS = 8192  # of all processes together
LENGTHS = (96, 128, 256, 512, 1024, 1536)
_EARLY = (65, 10, 10, 8, 7, 0)  # per cent of the steps by length: every promised length from the start
_LATE = (5, 10, 15, 30, 35, 5)
_MIXED_BY = 0.4  # of the token budget: from here on the late mix


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Token ids [rows, length], and for each whether it belongs to an answer or to any text at all."""

    ids: Tensor
    is_answer: Tensor
    is_text: Tensor


def draw_length(rng: random.Random, done: float) -> int:
    """The row length of a step; `done` is the share of the token budget already spent."""
    late = min(1.0, done / _MIXED_BY)
    weights = [early + (final - early) * late for early, final in zip(_EARLY, _LATE, strict=True)]
    return rng.choices(LENGTHS, weights=weights)[0]


def draw_batch(tokenizer: Tokenizer, rng: random.Random, length: int, tokens: int) -> Batch:
    """About `tokens` tokens in rows of `length`, each one conversation cut off at the end."""
    rows = []
    for _ in range(max(1, tokens // length)):
        dialogue = training_dialogue(rng, length, lambda text: len(encode(tokenizer, text)))
        ids, is_answer = encode_dialogue(tokenizer, dialogue)
        rows.append((ids[:length], is_answer[:length]))
    return pad(rows)


def pad(rows: list[tuple[list[int], list[bool]]]) -> Batch:
    """Rows of different lengths as one rectangle, filled up on the right."""
    length = max(len(ids) for ids, _ in rows)
    return Batch(
        ids=torch.tensor([ids + [EOS_ID] * (length - len(ids)) for ids, _ in rows]),
        is_answer=torch.tensor([marks + [False] * (length - len(marks)) for _, marks in rows]),
        is_text=torch.tensor([[n < len(ids) for n in range(length)] for ids, _ in rows]),
    )
