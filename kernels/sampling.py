"""Drawing tokens from filtered softmax distributions, one uniform number a row.

Probabilities are held as integers (`token_weights`): sums of integers do not depend on the order of
summation, so a row's draw is the same whatever other rows, padding or head size it is computed with.
`engine/sampler.py` calls these; nothing here keeps state.

R rows, V vocabulary.
"""

import torch
from torch import Tensor

from .by_device import by_device

WEIGHT_BITS = 40
"""The likeliest token of a row weighs 2**40; a token less than 2**-40 as likely is never drawn."""
ID_BITS = 22
"""Weight and token id share one int64 sort key, so that equal weights are ordered by id."""
MAX_VOCAB = 1 << ID_BITS
NUCLEUS_HEAD = 128
"""Tokens ranked for a top-p row before the whole row is sorted."""


@by_device
def best_tokens(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest logit of each row and its id, the lowest id of equal ones.

    Of a row that holds a NaN the value is NaN and the id anything.

    logits   [R, V]   float32
    returns  [R] float32, [R] int64
    """
    best = logits.max(dim=-1)
    return best.values, best.indices


@by_device
def token_weights(logits: Tensor, temperature: Tensor, min_p: Tensor | None) -> Tensor:
    """Return softmax(logits / temperature) as integers relative to the row's maximum, 0 below `min_p`.

    logits       [R, V]  float32, each row with a finite maximum
    temperature  [R]     float64, positive
    min_p        [R]     float64, tokens less likely than `min_p` times the likeliest weigh 0
    returns      [R, V]  int64, at most 2**WEIGHT_BITS
    """
    # In float64, so that logits which differ by one ulp near the maximum still get different weights.
    relative = (logits - logits.amax(dim=-1, keepdim=True)).double()
    relative.div_(temperature[:, None]).exp_()
    if min_p is not None:
        relative.masked_fill_(relative < min_p[:, None], 0.0)
    return relative.mul_(1 << WEIGHT_BITS).long()


@by_device
def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Draw one token a row with probability proportional to its weight, by the inverse of the CDF.

    weights   [R, V]  int64
    uniforms  [R]     float64 in [0, 1)
    returns   [R]     int64 token ids
    """
    cumulative = weights.cumsum(dim=-1)
    return _invert(cumulative, cumulative[:, -1:], uniforms).squeeze(-1)


def draw_filtered(
    weights: Tensor, uniforms: Tensor, top_k: Tensor, top_p: Tensor, *, largest_k: int
) -> Tensor:
    """Draw one token a row from its `top_k` likeliest, cut to the fewest that hold `top_p` of their mass.

    Tokens are ranked by weight, equal ones by id, and at least one is kept.

    weights    [R, V]  int64
    uniforms   [R]     float64 in [0, 1)
    top_k      [R]     int64 in [1, V]; V where there is no limit
    top_p      [R]     float64 in (0, 1]
    largest_k          the largest limit below V in `top_k`, 0 if there is none
    returns    [R]     int64 token ids
    """
    vocab = weights.shape[-1]
    keys = _ranking_keys(weights)
    masses = weights.sum(dim=-1)
    head = max(largest_k, NUCLEUS_HEAD)
    if 4 * head >= vocab:
        return _draw_from_head(keys, masses, uniforms, top_k, top_p, head=vocab)[0]
    tokens, complete = _draw_from_head(keys, masses, uniforms, top_k, top_p, head=head)
    rest = torch.nonzero(~complete).squeeze(-1)
    if rest.numel():
        tokens[rest] = _draw_from_head(
            keys[rest], masses[rest], uniforms[rest], top_k[rest], top_p[rest], head=vocab
        )[0]
    return tokens


def best_logprobs(logprobs: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ids and values of the `count` largest log probabilities, best first, equal ones by id.

    logprobs  [R, V]      float32, no NaN
    returns   [R, count]  int64, [R, count] float32
    """
    bits = (logprobs + 0.0).view(torch.int32)
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()
    ids = torch.arange(logprobs.shape[-1], device=logprobs.device)
    best = (ordered << ID_BITS).add_(MAX_VOCAB - 1 - ids).topk(count, dim=-1).values
    best_ids = _ids_of(best)
    return best_ids, logprobs.gather(-1, best_ids)


def _draw_from_head(
    keys: Tensor, masses: Tensor, uniforms: Tensor, top_k: Tensor, top_p: Tensor, *, head: int
) -> tuple[Tensor, Tensor]:
    """Draw among the `head` likeliest tokens; the second result tells which rows' nucleus fitted in them."""
    vocab = keys.shape[-1]
    ranked = keys.sort(dim=-1, descending=True).values if head == vocab else keys.topk(head, dim=-1).values
    cumulative = (ranked >> ID_BITS).cumsum(dim=-1)
    limited = cumulative.gather(-1, top_k.clamp(max=head)[:, None] - 1)
    mass = torch.where(top_k[:, None] < vocab, limited, masses[:, None])
    needed = (mass.double() * top_p[:, None]).ceil().long().clamp(min=1).minimum(mass)
    last = torch.searchsorted(cumulative, needed)
    nucleus = cumulative.gather(-1, last.clamp(max=head - 1))
    rank = _invert(cumulative, nucleus, uniforms)
    return _ids_of(ranked.gather(-1, rank)).squeeze(-1), last.squeeze(-1) < head


def _invert(cumulative: Tensor, total: Tensor, uniforms: Tensor) -> Tensor:
    """Return [R, 1], the first column whose cumulative weight exceeds `uniforms * total` ([R, 1])."""
    target = (total.double() * uniforms[:, None]).floor().long().minimum(total - 1)
    return torch.searchsorted(cumulative, target, right=True).clamp(max=cumulative.shape[-1] - 1)


def _ranking_keys(weights: Tensor) -> Tensor:
    """Return unique int64 keys that sort by weight, then by falling id."""
    ids = torch.arange(weights.shape[-1], device=weights.device)
    return (weights << ID_BITS).add_(MAX_VOCAB - 1 - ids)


def _ids_of(keys: Tensor) -> Tensor:
    return MAX_VOCAB - 1 - (keys & (MAX_VOCAB - 1))
