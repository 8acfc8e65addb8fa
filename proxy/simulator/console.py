"""What `baton simulate` does between its flags and its output: reads, runs, returns the text to print.

Called by `cli/simulate.py`. Shows a progress bar on standard error; prints nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path

import msgspec

from ..routing.policy_file import DEFAULTS, PolicyFileError, load_policy_file
from .engine_model import EngineModel, ModelError, load_engine_model
from .outcome import Objective
from .progress_bar import progress_bar
from .report import AtLoad, render_page, render_picture
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
    speeds: tuple[float, ...]
    """How many times as fast requests come; several: one comparison each."""
    limit: int | None
    engine: Path | None
    seed: int
    objective: Objective
    report: Path | None
    """An HTML page."""
    picture: Path | None
    """An SVG."""


def run_wish(wish: Wish) -> str:
    """Run the simulations and return what to print. Raises `ConsoleError`."""
    for speed in wish.speeds:
        if not 0 < speed < inf:
            raise ConsoleError(f"--speed {speed:g}: must be above 0")
    try:
        model = load_engine_model(wish.engine) if wish.engine is not None else EngineModel()
        policies = _policies(wish.policies)
        requests = _requests(wish)
    except (ModelError, TraceError, PolicyFileError) as error:
        raise ConsoleError(str(error)) from error
    _check_room(requests, model)
    scene = Scene(trace=requests, model=model, objective=wish.objective, seed=wish.seed)
    if wish.sweep is not None:
        return _sweep(scene, policies, wish)
    return _compare(scene, policies, wish)


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


def _compare(scene: Scene, policies: Sequence[NamedPolicy], wish: Wish) -> str:
    facts = [*_facts(wish, scene.trace), f"{wish.prefill} prefill workers, {wish.decode} decode workers"]
    text, loads = "\n".join(facts), []
    for speed in wish.speeds:
        faster = rescaled(scene.trace, speed)
        with _progress() as progress:
            outcomes = compare(
                replace(scene, trace=faster), policies, FleetSize(wish.prefill, wish.decode), progress
            )
        loads.append(AtLoad(_requests_s(faster), outcomes))
        text += f"\n\n{_load(speed, faster)}\n" + render([row(outcome) for outcome in outcomes])
    if wish.report is not None:
        page = render_page("Routing policies, simulated", facts, loads, scene.objective)
        text += "\n\n" + _write("report", wish.report, page)
    if wish.picture is not None:
        text += "\n\n" + _write("picture", wish.picture, render_picture(loads, scene.objective))
    return text


def _sweep(scene: Scene, policies: Sequence[NamedPolicy], wish: Wish) -> str:
    assert wish.sweep is not None
    workers = _workers(wish.sweep)
    for flag, given in (("--report", wish.report), ("--picture", wish.picture)):
        if given is not None:
            raise ConsoleError(f"{flag}: a sweep prints a table only")
    text = "\n".join([*_facts(wish, scene.trace), f"{workers} workers, best split first"])
    for speed in wish.speeds:
        faster, rows = replace(scene, trace=rescaled(scene.trace, speed)), []
        with _progress() as progress:
            for policy in policies:
                runs = sweep(faster, policy, workers, progress)
                rows += [row(run, f"{policy.name} {size.prefill}:{size.decode}") for size, run in runs]
        text += f"\n\n{_load(speed, faster.trace)}\n" + render(rows)
    return text


def _write(flag: str, path: Path, text: str) -> str:
    try:
        path.write_text(text)
    except OSError as error:
        raise ConsoleError(f"--{flag} {path}: {error.strerror}") from error
    return f"{flag}: {path}"


def _facts(wish: Wish, requests: Sequence[TraceRequest]) -> list[str]:
    source = wish.trace.name if wish.trace is not None else f"{wish.sessions} made-up sessions"
    objective = wish.objective
    return [
        f"{source}: {len(requests)} requests, seed {wish.seed}",
        f"good: TTFT at most {objective.ttft_s:g} s and TPOT at most {objective.tpot_s * 1000:g} ms",
    ]


def _load(speed: float, requests: Sequence[TraceRequest]) -> str:
    span_s = requests[-1].at_s - requests[0].at_s
    return f"speed {speed:g}: {_requests_s(requests):.3g} requests/s for {span_s:.0f} s"


def _requests_s(requests: Sequence[TraceRequest]) -> float:
    return len(requests) / max(requests[-1].at_s - requests[0].at_s, 1e-9)


def _requests(wish: Wish) -> list[TraceRequest]:
    if wish.trace is not None:
        return read_trace(wish.trace, limit=wish.limit)
    return generate_sessions(SessionLoad(sessions=wish.sessions), seed=wish.seed)[: wish.limit]


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
    with progress_bar() as bar:
        task = bar.add_task("")

        def show(name: str, done: int, total: int) -> None:
            if done % REDRAW_EVERY == 0 or done == total:
                bar.update(task, description=name, completed=done, total=total)

        yield show
