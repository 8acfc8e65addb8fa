"""How many threads compute a step on a CPU: prompts and many decode rows get all, few rows one fewer.

The threads of one operation wait for each other. While sequences decode, the frontend writes a token to every
client after each step; where it takes a core from a compute thread, every operation of the step waits for
that one, and waking a thread costs more than it can do of a few rows. `docs/engine-speed.md` has the figures.
`runner` applies it.
"""

from dataclasses import dataclass

import torch

from .config import WorkerConfig

MANY_ROWS = 16
"""Decode rows that are worth all threads: at 8 and less a second thread gained little or lost."""


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
        """Return what is configured; absent: all that torch has, and one fewer for few decode rows."""
        prompts = config.threads or torch.get_num_threads()
        if config.decode_threads is not None:
            return cls(prompts, config.decode_threads, config.decode_threads)
        return cls(prompts, max(1, prompts - 1))

    def use_for_prompts(self) -> None:
        """Let the next operations of this thread use the threads for prompts."""
        torch.set_num_threads(self.prompts)

    def use_for_decode(self, rows: int = 1) -> None:
        """Let the next operations of this thread use the threads for a decode step of so many rows."""
        torch.set_num_threads(self.decode if rows < MANY_ROWS else self.decode_many)
