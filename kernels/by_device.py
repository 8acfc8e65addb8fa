"""How an operation finds its Triton form: one rule for every file of this folder.

`<op>.py` holds the operation in torch, with its shape table. That function is the reference and the path on a
CPU. `<op>_triton.py` beside it holds a launcher of the same name and signature, and the Triton kernel it
launches. A function marked `@by_device` sends a call whose first tensor lies on a GPU to the sibling, and
imports it then: on a machine without triton, importing an operation and calling it on a CPU both work. A
torch without CUDA leaves the marked function as it was, so a CPU worker pays nothing.

What is more than one operation, such as the way of a step through a layer, asks `serves` where it is put
together: a GPU wants shapes that no data decides, a CPU the least work.

The launchers take CPU tensors too where Triton's interpreter runs them (TRITON_INTERPRET=1), which is how
`tests/kernels` compares each with its reference. `force_triton`, called before anything else of this folder
is imported, sends every call to them, so that whole models run as they would on a GPU. Functions without the
mark are made of torch operations that run anywhere.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
_FORCED: list[bool] = []


def force_triton() -> None:
    """From now on, operations that are imported run their Triton form wherever their tensors lie."""
    _FORCED.append(True)


def serves(device: torch.device) -> bool:
    """Whether marked operations on tensors of this device run their Triton form."""
    return device.type == "cuda" or bool(_FORCED)


def by_device(reference: Callable[P, R]) -> Callable[P, R]:
    """Mark an operation that has a Triton form; its first argument is a tensor or a tuple of them."""
    if torch.version.cuda is None and not _FORCED:
        return reference

    @wraps(reference)
    def dispatched(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0]
        if serves((first[0] if isinstance(first, tuple) else first).device):
            result: R = launcher(reference)(*args, **kwargs)
            return result
        return reference(*args, **kwargs)

    return dispatched


@lru_cache
def launcher(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return the Triton launcher of an operation."""
    found: Callable[..., Any] = getattr(import_module(f"{operation.__module__}_triton"), operation.__name__)
    return found


def reference(operation: Callable[P, R]) -> Callable[P, R]:
    """Return the torch form of an operation, whatever the device."""
    plain: Callable[P, R] = getattr(operation, "__wrapped__", operation)
    return plain
