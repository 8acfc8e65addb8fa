"""How many threads compute a step on a CPU: a prompt gets all, a decode step leaves one to the frontend.

The threads of one operation wait for each other. While sequences decode, the frontend writes a token to every
client after each step; where it takes a core from a compute thread, every operation of the step waits for
that one. `docs/engine-speed.md` has the figures. `runner` applies it.
"""

from dataclasses import dataclass

import torch

from .config import WorkerConfig


@dataclass(frozen=True, slots=True)
class ComputeThreads:
    """Threads for each of the two phases."""

    prompts: int
    decode: int

    @classmethod
    def of(cls, config: WorkerConfig) -> "ComputeThreads":
        """Return what is configured; absent: all that torch has for prompts, one fewer for decode."""
        prompts = config.threads or torch.get_num_threads()
        return cls(prompts, config.decode_threads or max(1, prompts - 1))

    def use_for_prompts(self) -> None:
        """Let the next operations of this thread use the threads for prompts."""
        torch.set_num_threads(self.prompts)

    def use_for_decode(self) -> None:
        """Let the next operations of this thread use the threads for decode."""
        torch.set_num_threads(self.decode)
