"""The house's rules hold: who may import whom, what loads alone, and how large a file may grow."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ["cli", "decode_worker", "engine", "kernels", "kvtransfer", "prefill_worker", "proxy"]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# Longest prefix wins: `proxy/routing` has a rule of its own.
SIBLINGS = {
    "proxy": {"proxy", "kvtransfer"},
    "proxy/routing": {"proxy/routing"},
    "prefill_worker": {"prefill_worker", "engine", "kvtransfer", "kernels"},
    "decode_worker": {"decode_worker", "engine", "kvtransfer", "kernels"},
    "engine": {"engine", "kernels", "kvtransfer"},
    "kvtransfer": {"kvtransfer"},
    "kernels": {"kernels"},
    "cli": {"cli"},
}
LAZY_SIBLINGS = {"cli": set(FOLDERS), "engine": {"prefill_worker", "decode_worker"}}
"""Allowed inside a function only: the command line and the worker's entry start what they were asked for."""

HOMES = {
    "torch": {"engine", "kernels", "kvtransfer", "prefill_worker", "decode_worker"},
    "numpy": {"engine", "kernels", "kvtransfer", "prefill_worker", "decode_worker"},
    "triton": {"kernels"},
    "nixl": {"kvtransfer"},
    "ucxx": {"kvtransfer"},
    "deep_ep": {"kernels"},
    "transformers": set[str](),
}
"""Third-party packages that only some folders may import."""

DECIDES_WITHOUT = {"asyncio", "aiohttp", "socket", "threading", "time", "uvloop", "zmq"}
"""What `proxy/routing` may not touch: I/O and the clock."""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


ALL_SOURCES = [path for folder in FOLDERS for path in sources(folder)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("baton", *parts)).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (absolute dotted name, whether inside a function) for each import of a file."""
    package = ["baton", *path.relative_to(ROOT).parent.parts]

    def visit(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                stem = [*base, *(child.module.split(".") if child.module else [])]
                yield from ((".".join([*stem, alias.name]), lazy) for alias in child.names)
            else:
                yield from visit(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    yield from visit(ast.parse(path.read_text()), lazy=False)


def rule_for(path: Path) -> str:
    name = path.relative_to(ROOT).as_posix()
    return max((rule for rule in SIBLINGS if name.startswith(f"{rule}/")), key=len)


def breaches(path: Path) -> Iterator[str]:
    rule = rule_for(path)
    folder = path.relative_to(ROOT).parts[0]
    for dotted, lazy in imports(path):
        top, *rest = dotted.split(".")
        if top == "baton" and rest and rest[0] in FOLDERS:
            target = "/".join(rest)
            allowed = SIBLINGS[rule] | (LAZY_SIBLINGS.get(folder, set()) if lazy else set())
            if not any(f"{target}/".startswith(f"{prefix}/") for prefix in allowed):
                yield f"{name_of(path)} imports {dotted}"
        if top in HOMES and folder not in HOMES[top]:
            yield f"{name_of(path)} imports {top}"
        if rule == "proxy/routing" and top in DECIDES_WITHOUT:
            yield f"{name_of(path)} decides, so it may not import {top}"
        if folder == "proxy" and top == "zmq" and not lazy:
            yield f"{name_of(path)} imports zmq at import time"


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_what_its_place_in_the_house_allows(folder: str) -> None:
    assert [breach for path in sources(folder) for breach in breaches(path)] == []


def test_the_rules_see_a_breach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "proxy" / "routing" / "peek.py"
    file.parent.mkdir(parents=True)
    file.write_text("import time\nimport torch\nfrom ...engine import config\nfrom . import fleet\n")

    assert list(breaches(file)) == [
        "proxy/routing/peek.py decides, so it may not import time",
        "proxy/routing/peek.py imports torch",
        "proxy/routing/peek.py imports baton.engine.config",
    ]


def test_kernels_has_no_init_so_that_the_distribution_of_that_name_wins() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_every_source_file_says_what_it_is() -> None:
    silent = [name_of(path) for path in ALL_SOURCES if not ast.get_docstring(ast.parse(path.read_text()))]

    assert silent == []


def test_every_folder_with_sources_is_in_the_distribution() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]

    missing = {module_of(path.parent / "__init__.py") for path in ALL_SOURCES} - set(listed)

    assert missing == set()


def test_no_file_outgrows_its_idea() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in ALL_SOURCES}

    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_outgrows_a_screen() -> None:
    long = {
        f"{name_of(path)}:{node.name}": lines
        for path in ALL_SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    }

    assert long == {}


def run_python(code: str, *arguments: str) -> str:
    """Run `code` in a fresh interpreter; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_proxy_and_the_command_line_load_no_tensor_library() -> None:
    light = [module_of(path) for path in [*sources("proxy"), *sources("cli")] if path.stem != "__main__"]
    heavy = ["torch", "triton", "nixl", "numpy", "zmq", "transformers", "ucxx"]
    code = f"""
import importlib, sys
for module in {light}:
    importlib.import_module(module)
print(*[name for name in {heavy} if name in sys.modules])
"""

    assert run_python(code).split() == []


EACH_ALONE = """
import importlib, os, sys, traceback, warnings
HEAVY = "torch numpy triton zmq safetensors.torch tokenizers aiohttp.web nixl ucxx"
for heavy in HEAVY.split():
    try:
        importlib.import_module(heavy)  # once, here: each fork below starts with it loaded
    except ImportError:
        pass
for module in sys.argv[1:]:
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = 0
        try:
            warnings.simplefilter("error")
            importlib.import_module(module)
        except BaseException:
            traceback.print_exc()
            status = 1
        os._exit(status)
    if os.waitpid(child, 0)[1]:
        print(module)
"""


def test_each_module_imports_alone_and_without_a_warning() -> None:
    modules = [module_of(path) for path in ALL_SOURCES if path.stem != "__main__"]

    assert run_python(EACH_ALONE, *modules).split() == []
