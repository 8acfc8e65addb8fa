"""The prompts one worker was sent and has not answered, in expected seconds: a new one's wait."""


class PrefillQueue:
    """First in, first out; each prompt is an id, its expected seconds, and its uncached tokens."""

    __slots__ = ("_prompts", "_seconds", "started_at", "uncached_tokens")

    def __init__(self) -> None:
        self._prompts: dict[int, tuple[float, float]] = {}
        self._seconds = 0.0
        self.uncached_tokens = 0.0
        self.started_at = 0.0
        """When the first prompt was taken up: its dispatch, or the answer before it."""

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def clear_at(self) -> float:
        """When the queue will be empty if all goes as expected."""
        return self.started_at + self._seconds

    @property
    def behind_first_s(self) -> float:
        """Seconds of work behind the first prompt: the least that a new one waits."""
        first_s, _ = next(iter(self._prompts.values()), (0.0, 0.0))
        return max(self._seconds - first_s, 0.0)

    def add(self, prompt: int, seconds: float, uncached_tokens: float, now: float) -> None:
        """A prompt was sent."""
        if not self._prompts:
            self.started_at = now
        self._prompts[prompt] = (seconds, uncached_tokens)
        self._seconds += seconds
        self.uncached_tokens += uncached_tokens

    def remove(self, prompt: int, now: float) -> float | None:
        """A prompt was answered or given up. Return how long it was first in line; None if it never was."""
        entry = self._prompts.get(prompt)
        if entry is None:
            return None
        first = next(iter(self._prompts)) == prompt
        del self._prompts[prompt]
        self._seconds -= entry[0]
        self.uncached_tokens -= entry[1]
        if not self._prompts:
            # Exactly zero when empty, whatever rounding has left.
            self._seconds = self.uncached_tokens = 0.0
        if not first:
            return None
        took = now - self.started_at
        self.started_at = now
        return took
