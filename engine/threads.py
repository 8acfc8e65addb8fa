"""How many threads compute a step on a CPU: all, but for few decode rows where operations run in torch.

While sequences decode, the frontend writes a token to every client after each step and takes a core from a
compute thread. Operations in C++ do not wait for a thread that is not there (`kernels/native/team.h`). Those
of torch do, every one, and waking a thread costs more than it can do of a few rows, which get one fewer.
`docs/engine-speed.md` has the figures. `runner` applies it.
"""

from dataclasses import dataclass

import torch

from ..kernels.native.library import library
from .config import WorkerConfig

MANY_ROWS = 16
"""Decode rows that are worth all of torch's threads: at 8 and less a second one gained little or lost."""


@dataclass(frozen=True, slots=True)
class ComputeThreads:
    """Threads for each of the phases."""

    prompts: int
    decode: int
    """For steps of fewer than `MANY_ROWS` rows"""
    decode_many: int = 0
    """For larger ones; not given: as for prompts"""

    def __post_init__(self) -> None:
        """Fill in what was not given."""
        if not self.decode_many:
            object.__setattr__(self, "decode_many", self.prompts)

    @classmethod
    def of(cls, config: WorkerConfig) -> "ComputeThreads":
        """Return what is configured; absent: all that torch has, in torch one fewer for few decode rows."""
        prompts = config.threads or torch.get_num_threads()
        if config.decode_threads is not None:
            return cls(prompts, config.decode_threads, config.decode_threads)
        runs_native = config.device == "cpu" and library() is not None
        return cls(prompts, prompts if runs_native else max(1, prompts - 1))

    def use_for_prompts(self) -> None:
        """Let the next operations of this thread use the threads for prompts."""
        torch.set_num_threads(self.prompts)

    def use_for_decode(self, rows: int = 1) -> None:
        """Let the next operations of this thread use the threads for a decode step of so many rows."""
        torch.set_num_threads(self.decode if rows < MANY_ROWS else self.decode_many)
