"""How fast slots come free, of late: from it follows when a refused client should come back. No clock."""

from math import ceil, exp, inf

_MEMORY_S = 30.0


class DrainRate:
    """Tokens released per second, with what was long ago forgotten."""

    def __init__(self, now: float) -> None:
        self._tokens = 0.0
        self._began_at = self._at = now

    def released(self, tokens: int, now: float) -> None:
        """A slot of so many tokens came free."""
        self._tokens = self._faded(now) + tokens
        self._at = max(self._at, now)

    def tokens_per_s(self, now: float) -> float:
        """Return the rate; it fades while nothing comes free."""
        seen = 1 - exp((self._began_at - now) / _MEMORY_S)
        return self._faded(now) / (_MEMORY_S * seen) if seen > 0 else 0.0

    def retry_after_s(self, tokens: int, now: float, longest_s: int) -> int:
        """Return in how many whole seconds `tokens` will have come free: 1 to `longest_s`."""
        rate = self.tokens_per_s(now)
        wait_s = tokens / rate if rate > 0 else inf
        return max(1, ceil(min(wait_s, longest_s)))

    def _faded(self, now: float) -> float:
        return self._tokens * exp(-max(now - self._at, 0.0) / _MEMORY_S)
