"""Bare collectives that move what a backend moves, and nothing else: the limit of its transfers."""

from collections.abc import Callable
from functools import partial

import msgspec
import torch
from torch import Tensor

from ...engine.config import MoeBackendName
from ...kernels.moe.collectives import Collectives
from ...kernels.moe.pair import Pending
from ...kernels.moe.rows import ActivationFormat
from ...kernels.moe.wire import packed_bytes
from .shape import Shape


class Bare(msgspec.Struct, frozen=True, kw_only=True):
    """Both ways of one layer's rows, to be started."""

    dispatch: Callable[[], Pending[Tensor]]
    combine: Callable[[], Pending[Tensor]]


def bare_of(
    backend: MoeBackendName, rows: ActivationFormat, shape: Shape, ids: Tensor, collectives: Collectives
) -> Bare:
    """Return the collectives under one backend and format, for tokens routed to `ids`."""
    tokens, size = ids.shape[0], collectives.size
    if backend is MoeBackendName.ALLGATHER_REDUCESCATTER:
        return _gathering(shape, tokens, ids.device, collectives)
    if rows is ActivationFormat.BATCHED:
        return _all_to_all(shape, [tokens] * size, [tokens] * size, ids.device, collectives)
    owner = ids.div(shape.experts // size, rounding_mode="floor")
    goes_to = (owner.unsqueeze(-1) == torch.arange(size, device=ids.device)).any(1)
    sent = goes_to.sum(0).tolist()
    return _all_to_all(shape, sent, collectives.exchange_ints(sent), ids.device, collectives)


def _gathering(shape: Shape, tokens: int, device: torch.device, collectives: Collectives) -> Bare:
    own = _packed(shape, tokens, device)
    sums = _rows(shape, tokens * collectives.size, device)
    return Bare(
        dispatch=partial(collectives.all_gather, own),
        combine=partial(collectives.reduce_scatter, sums),
    )


def _all_to_all(
    shape: Shape, sent: list[int], received: list[int], device: torch.device, collectives: Collectives
) -> Bare:
    there, back = _packed(shape, sum(sent), device), _rows(shape, sum(received), device)
    return Bare(
        dispatch=partial(collectives.all_to_all, there, sent, received),
        combine=partial(collectives.all_to_all, back, received, sent),
    )


def _packed(shape: Shape, tokens: int, device: torch.device) -> Tensor:
    width = packed_bytes(shape.hidden, shape.top_k, shape.torch_dtype)
    return torch.zeros(tokens, width, dtype=torch.uint8, device=device)


def _rows(shape: Shape, tokens: int, device: torch.device) -> Tensor:
    return torch.zeros(tokens, shape.hidden, dtype=shape.torch_dtype, device=device)
