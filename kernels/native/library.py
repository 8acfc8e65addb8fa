"""Operations in C++, compiled for this machine's processor when a process first asks for them.

The result is kept in the user's cache folder under a name made of sources, flags and compiler, so that one
process of a machine compiles, once, in a few seconds. Without a compiler, or where compiling fails,
operations run in torch: the log says so.
"""

import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SOURCES = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-pthread", "-shared", "-fPIC", "-Wno-psabi")
PROCESSOR_FLAGS = {"AVX512": ("-march=x86-64-v4",), "AVX2": ("-march=x86-64-v3",)}
"""By what torch finds; what has neither is compiled for the compiler's default."""
COMPILE_TIMEOUT_S = 600.0

KINDS: dict[str, Any] = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float, "d": ctypes.c_double}

logger = logging.getLogger(__name__)


class CompileError(Exception):
    """The sources could not be compiled."""


@lru_cache
def library() -> ctypes.CDLL | None:
    """Load the operations, compiled if need be; None where they cannot be had."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        logger.warning("no C++ compiler: operations run in torch, which takes about twice the time")
        return None
    capability = torch.backends.cpu.get_cpu_capability()
    try:
        return load([compiler, *FLAGS, *PROCESSOR_FLAGS.get(capability, ())], cache_folder())
    except (CompileError, OSError) as error:
        logger.warning("operations run in torch, which takes about twice the time: %s", error)
        return None


def load(command: list[str], cache: Path) -> ctypes.CDLL:
    """Load what the command makes of the sources, from the cache where it is there.

    Raises `CompileError`, and `OSError` where the result cannot be loaded.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # many processes may start at once: one compiles
            compiled = cache / f"{_fingerprint(command)}.so"
            if not compiled.exists():
                compile_sources(command, compiled)
    except OSError as error:
        logger.info("compiled operations cannot be kept: %s", error)
        with tempfile.TemporaryDirectory() as folder:
            compiled = Path(folder) / "operations.so"
            compile_sources(command, compiled)
            return ctypes.CDLL(str(compiled))
    return ctypes.CDLL(str(compiled))


def compile_sources(command: list[str], target: Path) -> None:
    """Compile all sources into a library that appears whole. Raises `CompileError`."""
    logger.info("compiling operations for this processor, once: %s", " ".join(command))
    unfinished = target.with_suffix(f".{os.getpid()}")
    files = sorted(map(str, SOURCES.glob("*.cpp")))
    try:
        subprocess.run(  # noqa: S603  a compiler of fixed names on our own sources
            [*command, "-o", str(unfinished), *files],
            check=True,
            capture_output=True,
            text=True,
            timeout=COMPILE_TIMEOUT_S,
        )
    except subprocess.CalledProcessError as error:
        raise CompileError(f"{command[0]} failed: {error.stderr[-300:]}") from error
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{command[0]} took more than {COMPILE_TIMEOUT_S:.0f} s") from error
    unfinished.rename(target)


def function(name: str, kinds: str) -> Callable[..., Any]:
    """Return a function of the library.

    kinds  one letter an argument: p an address, i an integer, f a float, d a double; all return an integer
           or nothing
    """
    compiled = library()
    if compiled is None:
        return _missing  # such a machine may import a form, and does not call it
    found = compiled[name]
    found.argtypes = [KINDS[kind] for kind in kinds]
    found.restype = ctypes.c_int64
    return found


def _missing(*_: Any) -> None:
    raise CompileError("this machine has no compiled operations")


def are_plain(*tensors: Tensor) -> bool:
    """Whether the functions take these: float32 in the machine's memory, each row dense."""
    for tensor in tensors:  # a loop, because this is asked for every operation
        if tensor.dtype is not torch.float32 or tensor.stride(-1) != 1 or not tensor.is_cpu:
            return False
    return True


def cache_folder() -> Path:
    """Return where compiled operations are kept."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "baton" / "native"


def _fingerprint(command: list[str]) -> str:
    said = hashlib.sha256(" ".join([platform.machine(), *command]).encode())
    for file in sorted(SOURCES.glob("*.[ch]*")):
        said.update(file.read_bytes())
    return said.hexdigest()[:32]
