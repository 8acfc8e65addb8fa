"""Time goes to the innermost function that belongs to a part of the engine."""

import signal
import time

import pytest

from baton.bench.engine.profile import PACKAGE, Part, Profiler, part_of_file


@pytest.mark.parametrize(
    ("file", "function", "part"),
    [
        ("engine/models/mla.py", "decode", Part.ATTENTION),
        ("engine/models/mlp.py", "__call__", Part.MLP),
        ("engine/models/decoder.py", "decode", Part.REST),
        ("engine/sampler.py", "sample", Part.SAMPLING),
        ("engine/staging.py", "pack", Part.SCHEDULING),
        ("decode_worker/scheduler.py", "admit", Part.SCHEDULING),
        ("engine/inbox.py", "send", Part.MESSAGES),
        ("engine/inbox.py", "wait", Part.WAITING),
        ("kernels/rms_norm.py", "rms_norm", None),  # its caller's
    ],
)
def test_every_file_of_the_engine_has_a_part(file: str, function: str, part: Part | None) -> None:
    assert (PACKAGE / file).exists()
    assert part_of_file(file, function) is part


def test_the_time_of_a_busy_function_goes_to_its_part() -> None:
    profiler = Profiler()
    busy = {"spin": _spin}
    code = "def decode(): spin()"
    exec(compile(code, str(PACKAGE / "engine/models/mla.py"), "exec"), busy)
    before = signal.getsignal(signal.SIGALRM)
    profiler.start()
    try:
        busy["decode"]()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    seconds = profiler.take().seconds

    assert seconds["attention"] >= 0.9 * sum(seconds.values())
    assert profiler.take().seconds == {}


def _spin() -> None:
    """Use up processor time until the timer has fired often."""
    end = time.thread_time() + 0.03
    while time.thread_time() < end:
        pass
