"""Choosing tokens from a batch of logits."""

import torch

from ....kernels.sampling import best_tokens, draw, token_weights
from ..case import Case, Inputs
from .elementwise import size


def greedy(make: Inputs, rows: int, vocab: int) -> Case:
    """The best token; the first row has equal ones."""
    logits = make.normal(rows, vocab)
    logits[0] = 1.0
    return Case(
        operation=best_tokens,
        shape=f"{rows} x {vocab}",
        format=torch.int64,
        arguments=(logits,),
        bytes=size(logits),
    )


def weights(make: Inputs, rows: int, vocab: int) -> Case:
    """Logits to integer weights, with tokens that min_p drops and tokens that the model excludes."""
    logits = make.normal(rows, vocab, scale=3.0)
    logits[:, ::7] = float("-inf")
    temperature = make.uniform(rows, dtype=torch.float64) + 0.5
    return Case(
        operation=token_weights,
        shape=f"{rows} x {vocab}",
        format=torch.int64,
        arguments=(logits, temperature, torch.full_like(temperature, 1e-3)),
        bytes=3 * size(logits),
    )


def drawn(make: Inputs, rows: int, vocab: int) -> Case:
    """A draw by weight; the first row always takes its last token."""
    heavy = (make.uniform(rows, vocab, dtype=torch.float64) * 2**40).long()
    heavy[:, ::3] = 0
    uniforms = make.uniform(rows, dtype=torch.float64)
    heavy[0], heavy[0, -1] = 0, 1
    return Case(
        operation=draw,
        shape=f"{rows} x {vocab}",
        format=torch.int64,
        arguments=(heavy, uniforms),
        bytes=size(heavy),
    )
