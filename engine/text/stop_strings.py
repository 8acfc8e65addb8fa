"""Finds stop strings in text that arrives in pieces, holding back whatever may be the start of one.

The result depends on the text alone, not on how it was cut: the stop string that completes first ends the
text; of two that complete together the longer one wins. Each character costs O(1) amortised a stop string
(Knuth-Morris-Pratt), however long the stop strings are.
"""

import msgspec


class Cut(msgspec.Struct, frozen=True):
    """What a piece of text released."""

    text: str
    """Text that certainly is no part of a stop string (with the stop string, if it is to be included)."""
    stop: str | None = None
    """The stop string that ended the text."""


class _Pattern:
    """How much of one stop string the end of the text matches."""

    __slots__ = ("borders", "matched", "stop")

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.borders = _borders(stop)
        self.matched = 0

    def end_in(self, text: str) -> int | None:
        """Advance over `text`; return the offset in it just after the first completed match."""
        if self.matched == 0 and self.stop[0] not in text:
            return None
        for offset, char in enumerate(text):
            while self.matched and self.stop[self.matched] != char:
                self.matched = self.borders[self.matched - 1]
            if self.stop[self.matched] == char:
                self.matched += 1
                if self.matched == len(self.stop):
                    return offset + 1
        return None


class StopStrings:
    """The matcher of one choice; give it every piece of text until it reports a stop."""

    def __init__(self, stops: tuple[str, ...], *, include_stop: bool = False) -> None:
        assert all(stops), "an empty stop string would stop everywhere"
        self._patterns = [_Pattern(stop) for stop in stops]
        self._include_stop = include_stop
        self._held = ""

    def push(self, text: str) -> Cut:
        """Add text; return what may be shown now."""
        if not self._patterns:
            return Cut(text)
        buffer = self._held + text
        matches = [(end, -len(p.stop), p.stop) for p in self._patterns if (end := p.end_in(text)) is not None]
        if matches:
            end, _, stop = min(matches)
            shown_to = len(self._held) + end - (0 if self._include_stop else len(stop))
            self._held = ""
            return Cut(buffer[:shown_to], stop)
        keep_from = len(buffer) - max(pattern.matched for pattern in self._patterns)
        self._held = buffer[keep_from:]
        return Cut(buffer[:keep_from])

    def flush(self) -> str:
        """Return the text still held back, when the generation ended for another reason."""
        held, self._held = self._held, ""
        return held


def _borders(pattern: str) -> list[int]:
    """The length of the longest proper prefix of each prefix that is also its suffix (the KMP table)."""
    borders = [0] * len(pattern)
    matched = 0
    for place in range(1, len(pattern)):
        while matched and pattern[matched] != pattern[place]:
            matched = borders[matched - 1]
        if pattern[matched] == pattern[place]:
            matched += 1
        borders[place] = matched
    return borders
