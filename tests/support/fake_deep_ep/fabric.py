"""What the ranks of the stand-in share: messages by call and sender, and threads that run ranks."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

DEADLINE_S = 30.0

T = TypeVar("T")


class MisuseError(AssertionError):
    """A call that breaks DeepEP's documented contract."""


def demand(condition: bool, what: str) -> None:
    if not condition:
        raise MisuseError(what)


class Fabric:
    """Messages of all ranks: each rank posts one for each call, and may wait for everyone's."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._posted: dict[tuple[str, int], dict[int, Any]] = {}
        self._changed = threading.Condition()
        self._is_broken = False

    def post(self, call: tuple[str, int], rank: int, message: Any) -> None:
        with self._changed:
            self._posted.setdefault(call, {})[rank] = message
            self._changed.notify_all()

    def collect(self, call: tuple[str, int]) -> list[Any]:
        """Wait until every rank has posted; the messages in order of rank."""
        with self._changed:
            complete = self._changed.wait_for(
                lambda: self._is_broken or len(self._posted.get(call, {})) == self.size, DEADLINE_S
            )
            demand(complete and not self._is_broken, f"not every rank made call {call}")
            return [self._posted[call][rank] for rank in range(self.size)]

    def give_up(self) -> None:
        with self._changed:
            self._is_broken = True
            self._changed.notify_all()


class Group:
    """A rank's process group, as far as a buffer looks at it."""

    def __init__(self, fabric: Fabric, rank: int) -> None:
        self.fabric = fabric
        self._rank = rank

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self.fabric.size


class EventOverlap:
    """An event; results come to exist when the stream waits for it."""

    def __init__(self, arrive: Callable[[], None] | None = None) -> None:
        self._arrive = arrive

    def current_stream_wait(self) -> None:
        if self._arrive is not None:
            arrive, self._arrive = self._arrive, None
            arrive()


class Calls:
    """A rank's calls on one buffer, numbered alike on all ranks."""

    def __init__(self, group: Group) -> None:
        self.rank, self.size = group.rank(), group.size()
        self._fabric = group.fabric
        self._number = 0

    def open(self, name: str, message: Any) -> tuple[str, int]:
        call = (name, self._number)
        self._number += 1
        self._fabric.post(call, self.rank, message)
        return call

    def collect(self, call: tuple[str, int]) -> list[Any]:
        return self._fabric.collect(call)


def garbage(*shape: int, dtype: torch.dtype) -> Tensor:
    """What memory holds that nobody wrote: NaN, or nonsense integers."""
    if dtype is torch.float8_e4m3fn:
        return torch.full(shape, 0x7F, dtype=torch.uint8).view(dtype)
    return torch.full(shape, float("nan") if dtype.is_floating_point else 1 << 20, dtype=dtype)


def check_rows(x: Any) -> tuple[Tensor, Tensor | None]:
    values, scales = x if isinstance(x, tuple) else (x, None)
    demand(values.dim() == 2 and values.is_contiguous(), "x must be contiguous [tokens, hidden]")
    if scales is None:
        demand(values.dtype is torch.bfloat16, f"x must be bfloat16, not {values.dtype}")
    else:
        demand(values.dtype is torch.float8_e4m3fn, "quantised x must be float8_e4m3fn")
        demand(scales.dtype is torch.float32, "factors must be float32")
        demand(scales.shape == (values.shape[0], values.shape[1] // 128), "one factor for 128 values")
    return values, scales


def check_routing(x: Tensor, ids: Tensor, weights: Tensor | None, experts: int) -> None:
    demand(ids.dtype is torch.int64 and ids.dim() == 2, "topk_idx must be int64 [tokens, top_k]")
    demand(ids.shape[0] == x.shape[0] and ids.is_contiguous(), "topk_idx must be contiguous, a row a token")
    demand(bool(((ids >= -1) & (ids < experts)).all()), "topk_idx must be -1 or an expert")
    for row in ids.tolist():
        chosen = [expert for expert in row if expert >= 0]
        demand(len(chosen) == len(set(chosen)), "a token's experts must be distinct")
    if weights is not None:
        demand(weights.dtype is torch.float32 and weights.shape == ids.shape, "topk_weights: float32, as ids")


def run_threads(size: int, function: Callable[[Group], T]) -> list[T]:
    """Run a function on every rank of a fresh fabric; return the results in order of rank."""
    fabric = Fabric(size)

    def run(rank: int) -> T:
        try:
            return function(Group(fabric, rank))
        except BaseException:
            fabric.give_up()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [future.exception() for future in futures if future.exception() is not None]
    own_faults = [error for error in errors if "not every rank" not in str(error)]
    for error in own_faults or errors:
        assert error is not None
        raise error
    return [future.result() for future in futures]
