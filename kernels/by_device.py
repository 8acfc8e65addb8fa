"""How an operation finds its Triton form: one rule for every file of this folder.

`<op>.py` holds the operation in torch, with its shape table. That function is the reference and the path on a
CPU. `<op>_triton.py` beside it holds a launcher of the same name and signature, and the Triton kernel it
launches. A function marked `@by_device` sends a call whose first tensor lies on a GPU to the sibling, and
imports it then: on a machine without triton, importing an operation and calling it on a CPU both work.

On a CPU, the operations of `NATIVE` have a form in C++ (`<op>_native.py`, which calls `native/`) where there
is a compiler. It hands what it does not take, such as other number formats, to the reference.

What is more than one operation, such as the way of a step through a layer, asks `serves` where it is put
together: a GPU wants shapes that no data decides, a CPU the least work.

Where a package with a faster form is installed, an adapter of `adapters/` stands before the launcher; it
hands over what the package does not take.

The launchers take CPU tensors too where Triton's interpreter runs them (TRITON_INTERPRET=1), which is how
`tests/kernels` compares each with its reference. `force_triton`, called before anything else of this folder
is imported, sends every call to them, so that whole models run as they would on a GPU. Functions without the
mark are made of torch operations that run anywhere.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import torch

from .native.library import library

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
_FORCED: list[bool] = []
_REFERENCES: list[bool] = []
_REHEARSALS: list[bool] = []


def force_triton() -> None:
    """From now on, operations that are imported run their Triton form wherever their tensors lie."""
    _FORCED.append(True)


def serves(device: torch.device) -> bool:
    """Whether marked operations on tensors of this device run their Triton form."""
    return device.type == "cuda" or bool(_FORCED)


def wants_fixed_shapes(device: torch.device) -> bool:
    """Whether operations on tensors of this device are to have shapes that no value decides."""
    return serves(device) or bool(_REHEARSALS)


@contextlib.contextmanager
def fixed_shapes() -> Iterator[None]:
    """Let operations on a CPU have the shapes that a GPU wants meanwhile, so that a graph could hold them."""
    _REHEARSALS.append(True)
    try:
        yield
    finally:
        _REHEARSALS.pop()


@contextlib.contextmanager
def references() -> Iterator[None]:
    """Run marked operations in their torch form meanwhile, on a GPU too, to compare with."""
    _REFERENCES.append(True)
    try:
        yield
    finally:
        _REFERENCES.pop()


def by_device(reference: Callable[P, R]) -> Callable[P, R]:
    """Mark an operation that has a Triton form; its first argument is a tensor or a tuple of them."""
    cpu_form = on_cpu(reference)
    if torch.version.cuda is None and not _FORCED:
        return cpu_form

    @wraps(reference)
    def dispatched(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0]
        device = (first[0] if isinstance(first, tuple) else first).device
        if serves(device) and not _REFERENCES:
            form = fastest if device.type == "cuda" else launcher
            result: R = form(reference)(*args, **kwargs)
            return result
        return cpu_form(*args, **kwargs)

    return dispatched


NATIVE = {
    "add_rms_norm",
    "attend",
    "decode_stack",
    "gate_sigmoid_grouped",
    "gated_mlp",
    "gate_softmax_grouped",
    "gqa_decode_layer",
    "gqa_paged_decode",
    "gqa_token_rows",
    "mla_decode_layer",
    "mla_paged_decode",
    "mla_token_rows",
    "multiply",
    "multiply_columns",
    "rms_norm",
    "rms_norm_",
    "rope_halves_",
    "rope_interleaved_",
    "routed_experts",
    "silu_mul",
    "write_rows",
}
"""Operations with a form in C++"""


def on_cpu(reference: Callable[P, R]) -> Callable[P, R]:
    """Mark an operation whose tensors lie on a CPU: it runs its form in C++, where it has one."""
    if reference.__name__ not in NATIVE:
        return reference

    @wraps(reference)
    def dispatched(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0]
        has_form = _lets_native_run() and (first[0] if isinstance(first, tuple) else first).is_cpu
        result: R = (native(reference) if has_form else reference)(*args, **kwargs)
        return result

    return dispatched


@lru_cache
def native(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return the C++ form of an operation, or the operation where this machine cannot compile it."""
    if library() is None:
        return operation
    found: Callable[..., Any] = getattr(import_module(f"{operation.__module__}_native"), operation.__name__)
    return found


def reads_blocks(pool: torch.Tensor) -> bool:
    """Whether decode attention on a CPU reads the pool's blocks in place, rather than copies of them."""
    return runs_natively(pool)


def runs_natively(x: torch.Tensor) -> bool:
    """Whether operations on this tensor run in C++, where they have such a form and nothing watches them."""
    return x.dtype is torch.float32 and x.is_cpu and _lets_native_run() and library() is not None


def _lets_native_run() -> bool:
    """Whether nothing watches operations that C++ would hide: Triton forms, references, a rehearsed graph."""
    return not (_REFERENCES or _FORCED or _REHEARSALS)


@lru_cache
def launcher(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return the Triton launcher of an operation."""
    found: Callable[..., Any] = getattr(import_module(f"{operation.__module__}_triton"), operation.__name__)
    return found


ADAPTERS = {
    "attend": ("flashinfer", "flashinfer_attention"),
    "grouped_gemm_fp8": ("deep_gemm", "deep_gemm"),
    "grouped_gemm_fp8_masked": ("deep_gemm", "deep_gemm"),
    "linear_fp8": ("deep_gemm", "deep_gemm"),
    "mla_paged_decode": ("flash_mla", "flash_mla"),
}
"""The package with another form of an operation, and the file of `adapters/` that calls it"""


@lru_cache
def fastest(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return the adapter of an operation whose package can be imported, else its Triton launcher."""
    triton = launcher(operation)
    package, file = ADAPTERS.get(operation.__name__, (None, None))
    if package is None:
        return triton
    try:
        found = import_module(package)
    except ImportError:
        return triton
    logger.info("%s runs by %s", operation.__name__, package)
    adapt = getattr(import_module(f".adapters.{file}", __package__), operation.__name__)
    adapted: Callable[..., Any] = adapt(found, triton)
    return adapted


def reference(operation: Callable[P, R]) -> Callable[P, R]:
    """Return the torch form of an operation, whatever the device."""
    plain: Callable[P, R] = getattr(operation, "__wrapped__", operation)
    return plain
