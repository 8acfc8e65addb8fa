"""What `baton simulate` does between its flags and its output: reads, runs, returns the text to print.

Called by `cli/simulate.py`. Shows a progress bar on standard error; prints nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ..routing.policy_file import DEFAULTS, PolicyFileError, load_policy_file
from .engine_model import EngineModel, ModelError, load_engine_model
from .outcome import Objective
from .report import render_page
from .runs import NamedPolicy, Scene, compare, sweep
from .sessions import SessionLoad, generate_sessions
from .simulation import FleetSize
from .table import render, row
from .trace import TraceError, TraceRequest, read_trace, rescaled

REDRAW_EVERY = 50
"""Requests between two looks of the progress bar."""


class ConsoleError(ValueError):
    """Something that was asked for cannot be done; the message names the flag or the file."""


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for."""

    trace: Path | None
    sessions: int
    policies: tuple[str, ...]
    """Files, names of policies, or `all`."""
    prefill: int
    decode: int
    sweep: str | None
    """`P:D` or a number of workers."""
    speed: float
    limit: int | None
    engine: Path | None
    seed: int
    objective: Objective
    report: Path | None


def run_wish(wish: Wish) -> str:
    """Run the simulations and return what to print. Raises `ConsoleError`."""
    if wish.speed <= 0:
        raise ConsoleError(f"--speed {wish.speed:g}: must be above 0")
    try:
        model = load_engine_model(wish.engine) if wish.engine is not None else EngineModel()
        policies = _policies(wish.policies)
        requests = _requests(wish)
    except (ModelError, TraceError, PolicyFileError) as error:
        raise ConsoleError(str(error)) from error
    _check_room(requests, model)
    scene = Scene(trace=requests, model=model, objective=wish.objective, seed=wish.seed)
    facts = _facts(wish, requests)
    if wish.sweep is not None:
        return _sweep(scene, policies, _workers(wish.sweep), facts)
    return _compare(scene, policies, wish, facts)


def _check_room(requests: Sequence[TraceRequest], model: EngineModel) -> None:
    """Refuse a load of which a request would wait for room for ever."""
    for number, request in enumerate(requests, start=1):
        whole = request.prompt_tokens + request.output_tokens
        for pool, room, tokens in (
            ("prefill.kv_tokens", model.prefill.kv_tokens, request.prompt_tokens),
            ("decode.kv_tokens", model.decode.kv_tokens, whole),
        ):
            if -(-tokens // model.block_tokens) > room // model.block_tokens:
                raise ConsoleError(
                    f"request {number} needs room for {tokens} tokens; the engine model has {pool}: {room}"
                )


def _compare(scene: Scene, policies: Sequence[NamedPolicy], wish: Wish, facts: list[str]) -> str:
    facts = [*facts, f"{wish.prefill} prefill workers, {wish.decode} decode workers"]
    with _progress() as progress:
        outcomes = compare(scene, policies, FleetSize(wish.prefill, wish.decode), progress)
    text = "\n".join(facts) + "\n\n" + render([row(outcome) for outcome in outcomes])
    if wish.report is None:
        return text
    page = render_page("Routing policies, simulated", facts, outcomes, scene.objective)
    try:
        wish.report.write_text(page)
    except OSError as error:
        raise ConsoleError(f"--report {wish.report}: {error.strerror}") from error
    return f"{text}\n\nreport: {wish.report}"


def _sweep(scene: Scene, policies: Sequence[NamedPolicy], workers: int, facts: list[str]) -> str:
    rows = []
    with _progress() as progress:
        for policy in policies:
            runs = sweep(scene, policy, workers, progress)
            rows += [row(run, f"{policy.name} {size.prefill}:{size.decode}") for size, run in runs]
    return "\n".join([*facts, f"{workers} workers, best split first"]) + "\n\n" + render(rows)


def _facts(wish: Wish, requests: Sequence[TraceRequest]) -> list[str]:
    source = wish.trace.name if wish.trace is not None else f"{wish.sessions} made-up sessions"
    span_s = requests[-1].at_s - requests[0].at_s
    objective = wish.objective
    return [
        f"{source}: {len(requests)} requests in {span_s:.0f} s, speed {wish.speed:g}, seed {wish.seed}",
        f"good: TTFT at most {objective.ttft_s:g} s and TPOT at most {objective.tpot_s * 1000:g} ms",
    ]


def _requests(wish: Wish) -> list[TraceRequest]:
    if wish.trace is not None:
        return read_trace(wish.trace, speed=wish.speed, limit=wish.limit)
    made_up = generate_sessions(SessionLoad(sessions=wish.sessions), seed=wish.seed)
    return rescaled(made_up[: wish.limit], wish.speed)


def _policies(wanted: Sequence[str]) -> list[NamedPolicy]:
    names = [name for one in wanted for name in (DEFAULTS if one == "all" else [one])]
    return [
        NamedPolicy(name, DEFAULTS[name])
        if name in DEFAULTS
        else NamedPolicy(Path(name).stem, load_policy_file(Path(name)))
        for name in names
    ]


def _workers(text: str) -> int:
    parts = text.split(":")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts) or sum(map(int, parts)) < 2:
        raise ConsoleError(f"--sweep {text}: expected P:D or a number of at least 2 workers")
    return sum(map(int, parts))


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")

        def show(name: str, done: int, total: int) -> None:
            if done % REDRAW_EVERY == 0 or done == total:
                bar.update(task, description=name, completed=done, total=total)

        yield show
