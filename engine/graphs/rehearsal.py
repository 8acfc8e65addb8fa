"""Graphs rehearsed on a CPU: work runs eagerly each time, and breaks off where a CUDA graph would not follow.

A graph holds the operations of its capture with their shapes, numbers and addresses. So a replay here must
make the very calls of the capture: the same operations in the same order, with the same shapes and numbers,
on the same tensors where they are not made by the graph itself. Neither may read a value back to the host, or
have a shape that a value decides (https://docs.pytorch.org/docs/stable/notes/cuda.html#constraints).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...kernels.by_device import fixed_shapes
from .backend import Graph

Trace = list[str]
"""One line a call"""

HOST_READS = {
    "__bool__", "__float__", "__index__", "__int__", "cpu", "item", "numpy", "tolist",
}  # fmt: skip
HOST_DATA = {"as_tensor", "from_numpy", "lift_fresh", "tensor"}
DATA_SHAPED = {"bincount", "equal", "masked_select", "nonzero", "unique_consecutive"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class GraphRuleError(RuntimeError):
    """Work did what a CUDA graph cannot hold."""


class Rehearsal:
    """A `GraphBackend` without a GPU."""

    def capture(self, work: Callable[[], None]) -> Graph:
        """Warm up, then run under watch."""
        with fixed_shapes():
            work()
        return RehearsedGraph(work)


class RehearsedGraph:
    """Work with the trace of its capture."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._captured = _trace(work)

    def replay(self) -> None:
        """Run the work. Raises `GraphRuleError` where it is not what was captured."""
        replayed = _trace(self._work)
        for number, (now, then) in enumerate(zip(replayed, self._captured, strict=False)):
            if now != then:
                raise GraphRuleError(f"call {number} was captured as {then} and is now {now}")
        if len(replayed) != len(self._captured):
            raise GraphRuleError(f"{len(self._captured)} calls were captured and {len(replayed)} replayed")


def _trace(work: Callable[[], None]) -> Trace:
    recorder = _Recorder()
    with fixed_shapes(), _HostWatch(), recorder:
        work()
    return recorder.calls


class _HostWatch(TorchFunctionMode):
    """Refuses what never reaches the dispatcher: a list or a number made of a tensor, or the other way."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.__name__
        if name in HOST_READS:
            raise GraphRuleError(f"{name} reads a tensor's values back to the host")
        if name in HOST_DATA:
            raise GraphRuleError(f"{name} brings the host's values to the device")
        return func(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down every call; tensors are told apart by the memory that they are in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Trace = []
        self._made: dict[int, int] = {}
        """Storages that came into being meanwhile, by address, numbered in order"""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        _check(func, leaves)
        self.calls.append(f"{func}({', '.join(map(self._describe, leaves))})")
        result = func(*args, **kwargs)
        known = {_address(leaf) for leaf in leaves if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _address(leaf) not in known:
                self._made[_address(leaf)] = len(self.calls)
        return result

    def _describe(self, value: object) -> str:
        if isinstance(value, torch.ScriptObject):  # such as a process group, wrapped anew for each call
            return type(value).__name__
        if not isinstance(value, Tensor):
            return repr(value)
        address = _address(value)
        where = f"made in {self._made[address]}" if address in self._made else f"at {address:#x}"
        return f"{value.dtype} {list(value.shape)} {value.stride()} {where}+{value.storage_offset()}"


def _check(func: Any, leaves: list[object]) -> None:
    name = func.overloadpacket.__name__
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if name in HOST_DATA:
        raise GraphRuleError(f"{func} brings the host's values to the device")
    if torch.Tag.data_dependent_output in func.tags:
        raise GraphRuleError(f"{func} reads a tensor's values back to the host")
    if name in INDEXING:
        if any(tensor.dtype in {torch.bool, torch.uint8} for tensor in tensors[1:] if tensor.ndim):
            raise GraphRuleError(f"{func} by a mask has a shape that values decide")
    elif name in DATA_SHAPED or torch.Tag.dynamic_output_shape in func.tags:
        raise GraphRuleError(f"{func} has a shape that values decide")


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
