"""A kernel at one shape: its inputs, what it must equal, the least bytes and operations it needs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...kernels.by_device import launcher, reference
from .error import relative_error

Results = list[Tensor]


def returned(result: Any, arguments: tuple[Any, ...]) -> Results:
    """What most operations are judged by: what they return."""
    return list(result) if isinstance(result, tuple) else [result]


def changed(result: Any, arguments: tuple[Any, ...]) -> Results:
    """What an operation in place is judged by: its first argument, and what it returns."""
    return [arguments[0], *([] if result is None else [result])]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One operation at one shape."""

    operation: Callable[..., Any]
    shape: str
    """For people, such as `128 x 7168`"""
    format: torch.dtype
    """The number format whose tolerance applies"""
    arguments: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)
    results: Callable[[Any, tuple[Any, ...]], Results] = returned
    """What to compare, from what was returned and the arguments after the call"""
    bytes: int
    """Least traffic with the GPU's memory: each input read once, each result written once"""
    flops: int = 0
    """Operations of the matrix units"""

    @property
    def name(self) -> str:
        """The operation's name."""
        return str(self.operation.__name__)

    def run(self) -> Any:
        """Call the Triton form on the inputs themselves, to be timed."""
        return launcher(self.operation)(*self.arguments, **self.keywords)

    def error(self) -> float:
        """Largest relative error of any result of the Triton form."""
        return self.error_of(launcher(self.operation))

    def error_of(self, form: Callable[..., Any]) -> float:
        """Largest relative error of any result, `form` and the reference given fresh copies of the inputs."""
        actual, expected = self._results(form), self._results(reference(self.operation))
        assert len(actual) == len(expected) > 0, "the forms return different things"
        return max(map(relative_error, actual, expected))

    def _results(self, form: Callable[..., Any]) -> Results:
        arguments = tuple(_copy(argument) for argument in self.arguments)
        return self.results(form(*arguments, **self.keywords), arguments)


class Inputs:
    """Random tensors on one device, the same for the same seed."""

    def __init__(self, device: torch.device, seed: int = 0) -> None:
        self.device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
        """Normally distributed values."""
        values = torch.randn(*shape, generator=self._generator, device=self.device)
        return values.mul_(scale).to(dtype)

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Values in [0, 1)."""
        return torch.rand(*shape, generator=self._generator, device=self.device, dtype=dtype)

    def order(self, count: int) -> Tensor:
        """The numbers below `count`, shuffled: int64."""
        return torch.randperm(count, generator=self._generator, device=self.device)

    def choices(self, tokens: int, experts: int, top_k: int) -> Tensor:
        """Distinct experts of each token: [tokens, top_k] int64."""
        return self.uniform(tokens, experts).topk(top_k, dim=1).indices


def _copy(argument: Any) -> Any:
    """A tensor with the same strides, and nothing shared but in slices of one wider tensor."""
    if isinstance(argument, Tensor):
        return torch.empty_strided(
            argument.shape, argument.stride(), dtype=argument.dtype, device=argument.device
        ).copy_(argument)
    if isinstance(argument, tuple):
        return tuple(map(_copy, argument))
    return argument
