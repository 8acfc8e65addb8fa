"""What `baton simulate calibrate` does between its flags and its output.

Called by `cli/simulate.py`. Shows a progress bar on standard error, writes the model file, returns the
text to print.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import yaml

from ..simulator.engine_model import EngineModel, ModelError, load_engine_model
from ..simulator.progress_bar import progress_bar
from ..simulator.simulation import FleetSize
from .answer import Answer
from .batches import DecodeSteps, decode_steps
from .check import Predicted, check, spread_out
from .client import Client, Surveyed
from .model_fit import Calibration, CalibrationError, calibrate
from .plan import CalibrationPlan
from .tables import residuals, summary, verdict

LONGEST_BY_DEFAULT = 4096


class CalibrationWish(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for."""

    url: str
    out: Path
    model: str | None
    engine: Path | None
    """Where what cannot be measured is taken from."""
    longest: int | None
    streams: int
    check: int
    """Requests of the load that the fit is checked with; 0: no check."""
    check_busy: float
    """Share of the time that prefill workers compute in it."""
    seed: int


def run_calibration(wish: CalibrationWish) -> str:
    """Measure, fit, write the file, check; return what to print. Raises `CalibrationError`."""
    try:
        base = load_engine_model(wish.engine) if wish.engine is not None else EngineModel()
    except ModelError as error:
        raise CalibrationError(str(error)) from error
    surveyed, calibration, predicted = asyncio.run(measure(wish, base))
    facts = [f"{surveyed.model} at {wish.url}", *summary(calibration)]
    facts += verdict(predicted)
    _write(wish.out, calibration.model, facts)
    return "\n".join([*facts, "", residuals(calibration), "", f"written: {wish.out}"])


async def measure(wish: CalibrationWish, base: EngineModel) -> tuple[Surveyed, Calibration, list[Predicted]]:
    """Ask, fit and check; write nothing. Raises `CalibrationError`."""
    async with Client(wish.url, wish.model) as client:
        surveyed = await client.survey()
        if wish.check and not surveyed.prefill_workers:
            raise CalibrationError("--check needs a proxy that lists its prefill and decode workers")
        plan = _plan(wish, surveyed)
        lone, steps = await _ask_all(client, plan)
        calibration = calibrate(lone, steps, base=base, pools=surveyed.pools)
        if not wish.check:
            return surveyed, calibration, []
        size = FleetSize(surveyed.prefill_workers, surveyed.decode_workers)
        asks = plan.random_load(wish.check, seed=wish.seed)
        with _progress("check", len(asks)) as advance:
            timed = spread_out(asks, calibration.model, size.prefill, busy=wish.check_busy, seed=wish.seed)
            answers = await client.ask_at(timed, advance)
        return surveyed, calibration, check(answers, calibration.model, size)


async def _ask_all(client: Client, plan: CalibrationPlan) -> tuple[list[Answer], list[DecodeSteps]]:
    lone_asks, batches = plan.lone_prompts(), plan.batches()
    lone: list[Answer] = []
    steps: list[DecodeSteps] = []
    warmed: set[tuple[int, ...]] = set()
    total = len(lone_asks) + len({ask.prompt for batch in batches for ask in batch}) + len(batches)
    with _progress("calibrate", total) as advance:
        for ask in lone_asks:
            lone.append(await client.ask(ask))
            advance()
        for batch in batches:
            for ask in batch:
                if ask.prompt not in warmed:
                    warmed.add(ask.prompt)
                    lone.append(await client.ask(msgspec.structs.replace(ask, output_tokens=2)))
                    advance()
            steps += decode_steps(await client.ask_at([(0.0, ask) for ask in batch], lambda: None))
            advance()
    return lone, steps


def _plan(wish: CalibrationWish, surveyed: Surveyed) -> CalibrationPlan:
    room = None if surveyed.longest is None else surveyed.longest - CalibrationPlan().decoded_tokens - 1
    longest = wish.longest or min(LONGEST_BY_DEFAULT, LONGEST_BY_DEFAULT if room is None else room)
    if room is not None and longest > room:
        raise CalibrationError(f"--longest {longest}: {surveyed.model} has room for prompts of {room} tokens")
    shape = {"longest_prompt": longest, "most_streams": wish.streams, "seed": wish.seed}
    try:
        return msgspec.convert(shape, CalibrationPlan)
    except msgspec.ValidationError as error:
        raise CalibrationError(str(error)) from error


def _write(path: Path, model: EngineModel, facts: list[str]) -> None:
    comment = "".join(f"# {fact}\n" for fact in facts if fact)
    text = comment + yaml.safe_dump(msgspec.to_builtins(model), sort_keys=False)
    try:
        path.write_text(text)
    except OSError as error:
        raise CalibrationError(f"--out {path}: {error.strerror}") from error


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[], None]]:
    with progress_bar() as bar:
        task = bar.add_task(name, total=total)
        yield lambda: bar.advance(task)
