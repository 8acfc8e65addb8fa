"""The prompts one worker was sent and has not answered, in expected seconds: a new one's wait."""


class PrefillQueue:
    """First in, first out; each prompt is an id, its expected seconds, and its uncached tokens."""

    __slots__ = (
        "_first_s", "_prompts", "_seconds", "behind_first_s", "clear_at", "prompts", "started_at",
        "uncached_tokens",
    )  # fmt: skip

    def __init__(self) -> None:
        self._prompts: dict[int, tuple[float, float]] = {}
        self._seconds = self._first_s = 0.0
        self.prompts = 0
        """How many there are."""
        self.uncached_tokens = 0.0
        self.started_at = 0.0
        """When the first prompt was taken up: its dispatch, or the answer before it."""
        self.clear_at = 0.0
        """When the queue will be empty if all goes as expected."""
        self.behind_first_s = 0.0
        """Seconds of work behind the first prompt: the least that a new one waits."""

    def add(self, prompt: int, seconds: float, uncached_tokens: float, now: float) -> None:
        """A prompt was sent."""
        if not self._prompts:
            self.started_at, self._first_s = now, seconds
        self._prompts[prompt] = (seconds, uncached_tokens)
        self.prompts += 1
        self._seconds += seconds
        self.uncached_tokens += uncached_tokens
        self.clear_at = self.started_at + self._seconds
        self.behind_first_s = max(self._seconds - self._first_s, 0.0)

    def remove(self, prompt: int, now: float) -> float | None:
        """A prompt was answered or given up. Return how long it was first in line; None if it never was."""
        prompts = self._prompts
        if prompt not in prompts:
            return None
        first = next(iter(prompts)) == prompt
        seconds, uncached_tokens = prompts.pop(prompt)
        self.prompts -= 1
        self._seconds -= seconds
        self.uncached_tokens -= uncached_tokens
        took = None
        if first:
            took = now - self.started_at
            self.started_at = now
            self._first_s = next(iter(prompts.values()))[0] if prompts else 0.0
        if not prompts:
            # Exactly zero when empty, whatever rounding has left.
            self._seconds = self._first_s = self.uncached_tokens = 0.0
        self.clear_at = self.started_at + self._seconds
        self.behind_first_s = max(self._seconds - self._first_s, 0.0)
        return took
