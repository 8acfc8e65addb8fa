"""Stop strings cut exactly, however the text is divided, and nothing that could be part of one is shown."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from baton.engine.text.stop_strings import StopStrings

LETTERS = st.text(alphabet="abé", max_size=40)
STOPS = st.lists(st.text(alphabet="abé", min_size=1, max_size=6), max_size=4).map(tuple)


def pieces(text: str, cuts: list[int]) -> list[str]:
    places = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    return [text[start:end] for start, end in itertools.pairwise(places)]


def run(parts: list[str], stops: tuple[str, ...], *, include_stop: bool = False) -> tuple[str, str | None]:
    matcher = StopStrings(stops, include_stop=include_stop)
    shown = ""
    for part in parts:
        cut = matcher.push(part)
        shown += cut.text
        if cut.stop is not None:
            return shown, cut.stop
    return shown + matcher.flush(), None


def expected(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The definition, by trying every end: the first end wins, then the longest stop."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            stop = max(ending, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(LETTERS, STOPS, st.lists(st.integers(0, 40), max_size=12))
def test_the_result_depends_on_the_text_alone(text: str, stops: tuple[str, ...], cuts: list[int]) -> None:
    assert run(pieces(text, cuts), stops) == expected(text, stops)


@given(LETTERS, STOPS)
def test_just_the_text_that_may_begin_a_stop_is_held_back(text: str, stops: tuple[str, ...]) -> None:
    matcher = StopStrings(stops)
    starts = {stop[:size] for stop in stops for size in range(1, len(stop))} | {""}
    shown = ""
    for place, char in enumerate(text):
        cut = matcher.push(char)
        if cut.stop is not None:
            return
        shown += cut.text
        so_far = text[: place + 1]

        assert so_far[len(shown) :] == max((start for start in starts if so_far.endswith(start)), key=len)


def test_the_stop_string_is_part_of_the_text_when_asked_for() -> None:
    assert run(["one t", "wo three"], ("two",), include_stop=True) == ("one two", "two")


def test_of_two_stops_that_end_together_the_longer_one_cuts() -> None:
    assert run(["xab"], ("b", "ab")) == ("x", "ab")


def test_the_stop_that_completes_first_wins() -> None:
    assert run(["abcd"], ("abcd", "bc")) == ("a", "bc")


def test_what_was_held_back_is_shown_when_the_generation_ends_otherwise() -> None:
    assert run(["wait </sto"], ("</stop>",)) == ("wait </sto", None)


def test_without_stop_strings_text_passes_at_once() -> None:
    assert StopStrings(()).push("text").text == "text"
