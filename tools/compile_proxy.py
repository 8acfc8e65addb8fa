"""Compiles what the proxy runs for every request to machine code, in place: `make compiled`.

Beside the modules three parts in C are compiled: the relay, without which legs relay by themselves, what
splits long bodies in place of msgspec, and what hashes prompts in place of the package xxhash.

The modules are what they were: the same sources run uncompiled where no compiler is, or once `make
uncompiled` has taken the compiled ones away. A compiled module hides its source, so both have to be made
anew together; `proxy/compiled.py` tells when they differ.

Left out is what mypyc cannot compile: structs with options and what derives from classes of asyncio.
"""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent.parent
GROUP = "baton.proxy.machine_code"
"""The shared library that holds all of them, beside one small one for each."""
SERVING = (
    "added answer admission_desk body continuation cork counters exchange front gate hub intake leg notes "
    "pair_exchange paired_leg prefill_answer relay_leg replay request resume_leg resumption terms upstream "
    "usage watch"
)
ROUTING = (
    "admission books cache_events cache_use cached_keys courses decision_log drain_rate fair_queue fleet ids "
    "least_squares ledger life load memory observer pair_cost policy pools prefill_queue prefix_index prices "
    "rates router sessions slots ticket view worker_bits"
)


def sources() -> list[Path]:
    """Return the modules that are compiled."""
    folder = Path("baton", "proxy")
    serving = [folder / f"{name}.py" for name in SERVING.split()]
    routing = [folder / "routing" / f"{name}.py" for name in ROUTING.split()]
    return [*serving, *routing, folder / "siblings" / "publisher.py"]


def build(extensions: list[Extension], folder: Path) -> None:
    """Compile from the current folder into `folder`, as paths of packages."""
    command = build_ext(Distribution({"ext_modules": extensions}))
    command.build_lib, command.build_temp, command.parallel = str(folder), "temp", os.cpu_count()
    command.ensure_finalized()
    command.run()


def in_c(name: str) -> Extension:
    """Return one of the parts in C, by its path below the proxy."""
    source = Path("baton", "proxy", *name.split(".")).with_suffix(".c")
    warnings = ["-O2", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
    return Extension(f"baton.proxy.{name}", [str(source)], extra_compile_args=warnings)


def remove() -> None:
    """Take all compiled modules away."""
    for library in (ROOT / "proxy").glob("**/*.so"):
        library.unlink()


def compile_in_c(name: str, folder: Path) -> Path:
    """Compile one of the parts in C alone, in a folder of its own; return the library."""
    (folder / "baton").symlink_to(ROOT)
    with contextlib.chdir(folder):
        build([in_c(name)], Path("lib"))
    [library] = (folder / "lib").glob("**/*.so")
    return library


def compile_all() -> None:
    """Compile in a folder of its own; put the libraries beside their sources."""
    from mypyc.build import mypycify  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "baton").symlink_to(ROOT)
        os.chdir(folder)
        options = ["--strict", "--explicit-package-bases", "--follow-imports=silent"]
        extensions = mypycify(
            [*options, *map(str, sources())],
            opt_level="3",
            debug_level="0",
            multi_file=True,
            group_name=GROUP,
        )
        for extension in extensions:
            # Headers of a group lie beside the library, and are not looked for there.
            extension.include_dirs.append(str(Path("build", *GROUP.split(".")[:-1])))
            # Its functions call each other by name, and nobody means to put others in their place.
            extension.extra_compile_args.append("-fno-semantic-interposition")
            extension.extra_link_args.append("-Wl,-Bsymbolic-functions")
        extensions += [in_c("top_level"), in_c("routing.prompt_keys")]
        if sys.platform == "linux":  # it waits by epoll
            extensions.append(in_c("chunk_relay"))
        build(extensions, Path("lib"))
        remove()
        for library in (folder / "lib" / "baton").glob("**/*.so"):
            shutil.copy(library, ROOT / library.relative_to(folder / "lib" / "baton"))


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--remove", action="store_true", help="take the compiled modules away")
    if parser.parse_args().remove:
        remove()
    elif shutil.which(os.environ.get("CC", "cc")) is None:
        sys.exit("make compiled: no C compiler; the proxy runs as it is, at more CPU a request")
    else:
        compile_all()


if __name__ == "__main__":
    main()
