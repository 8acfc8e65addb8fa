"""Where an engine's time goes: samples of its main thread's stack, each weighted by the time since the last.

A timer interrupts the main thread every millisecond. The innermost function on the stack that belongs to a
part of the engine gets the time since the sample before. Inside an operation of torch the interrupt waits for
its end, so the operation's time goes to the function that called it, whole. The engine knows nothing of this.
"""

import enum
import signal
import time
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType

import msgspec

INTERVAL_S = 0.001
PACKAGE = Path(__file__).resolve().parents[2]


class Part(enum.Enum):
    """What the time of a step is told apart into."""

    SCHEDULING = "scheduling"
    """The loop, the scheduler, blocks and the tensors staged for a step"""
    ATTENTION = "attention"
    MLP = "MoE and MLP"
    REST = "rest of the model"
    """Embedding, norms between layers, output head"""
    SAMPLING = "sampling"
    MESSAGES = "messages"
    """To and from the frontend"""
    WAITING = "waiting"


_BY_FILE = {
    "engine/models/mlp.py": Part.MLP,
    "engine/models/decoder.py": Part.REST,
    "engine/inbox.py": Part.MESSAGES,
    "engine/sampler.py": Part.SAMPLING,
    "engine/sampling_plan.py": Part.SAMPLING,
    "engine/sampling_state.py": Part.SAMPLING,
    "engine/penalties.py": Part.SAMPLING,
}
_ATTENTION_FILES = ("engine/models/attention", "engine/models/mla", "engine/models/gqa", "engine/models/rope")
_SCHEDULING_FOLDERS = ("engine/", "decode_worker/", "prefill_worker/")


def part_of_file(file: str, function: str) -> Part | None:
    """Return the part that a function of `file`, relative to the package, belongs to; None: its caller's."""
    if file == "engine/inbox.py" and function == "wait":
        return Part.WAITING
    if file in _BY_FILE:
        return _BY_FILE[file]
    if file.startswith(_ATTENTION_FILES):
        return Part.ATTENTION
    return Part.SCHEDULING if file.startswith(_SCHEDULING_FOLDERS) else None


class Shares(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of each part, by its name."""

    seconds: dict[str, float]


class Profiler:
    """Samples the main thread of the process it is started in."""

    def __init__(self) -> None:
        self._seconds: defaultdict[Part, float] = defaultdict(float)
        self._last = time.perf_counter()
        self._parts: dict[CodeType, Part | None] = {}

    def start(self) -> None:
        """Begin to sample; from the main thread."""
        signal.signal(signal.SIGALRM, self._on_tick)
        signal.setitimer(signal.ITIMER_REAL, INTERVAL_S, INTERVAL_S)

    def take(self) -> Shares:
        """Return what was seen since the last time, and begin anew."""
        seen, self._seconds = self._seconds, defaultdict(float)
        return Shares(seconds={part.value: seconds for part, seconds in seen.items()})

    def _on_tick(self, _number: int, frame: FrameType | None) -> None:
        now = time.perf_counter()
        self._seconds[self._part(frame)] += now - self._last
        self._last = now

    def _part(self, frame: FrameType | None) -> Part:
        while frame is not None:
            code = frame.f_code
            if code not in self._parts:
                self._parts[code] = _part_of_code(code)
            part = self._parts[code]
            if part is not None:
                return part
            frame = frame.f_back
        return Part.SCHEDULING


def _part_of_code(code: CodeType) -> Part | None:
    file = Path(code.co_filename).resolve()  # as `PACKAGE` is: the package may be reached through a link
    if not file.is_relative_to(PACKAGE):
        return None
    return part_of_file(file.relative_to(PACKAGE).as_posix(), code.co_name)
