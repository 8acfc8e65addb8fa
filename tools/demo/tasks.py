"""Small jobs that need no earlier fact: counting, repeating, sorting.

No I/O; everything is drawn from the caller's `random.Random`.  Each job comes with its one right
answer.  Called by `generator.py`.
"""

import random

from .facts import invented_word
from .words import ANIMALS, CITIES, COLOURS, FRUITS, NAMES, OBJECTS, THINGS

_LARGEST = 99
_LONGEST_COUNT = 14
_MOST_SORTED = 7
_MOST_REPEATED = 9
_REPEATABLE = COLOURS + OBJECTS + NAMES + CITIES + ANIMALS + FRUITS + THINGS


def draw_count(rng: random.Random) -> tuple[str, str]:
    """Question and answer of a count upwards or downwards, e.g. "Count from 3 to 9."."""
    low = rng.randint(0, _LARGEST - 2)
    high = min(_LARGEST, low + rng.randint(2, _LONGEST_COUNT))
    if rng.random() < 0.75:
        question = rng.choice(
            ("Count from {a} to {b}.", "Please count from {a} to {b}.", "Count up from {a} to {b}.")
        )
        return question.format(a=low, b=high), _listed(list(range(low, high + 1)))
    question = rng.choice(("Count from {a} to {b}.", "Count down from {a} to {b}."))
    return question.format(a=high, b=low), _listed(list(range(high, low - 1, -1)))


def draw_repeat(rng: random.Random) -> tuple[str, str]:
    """Question and answer of a repetition, e.g. "Repeat these words: apple river stone."."""
    words = " ".join(_repeatable(rng) for _ in range(rng.randint(2, _MOST_REPEATED)))
    lead = rng.choice(("Repeat these words:", "Repeat after me:", "Say this again:", "Repeat:"))
    return f"{lead} {words}.", f"{words}."


def draw_sort(rng: random.Random) -> tuple[str, str]:
    """Question and answer of an ascending sort of distinct numbers, e.g. "Sort these numbers: 42, 7, 19."."""
    numbers = rng.sample(range(_LARGEST + 1), rng.randint(3, _MOST_SORTED))
    lead = rng.choice(("Sort these numbers:", "Put these numbers in order:", "Sort:"))
    return f"{lead} {_listed(numbers)}", _listed(sorted(numbers))


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) + "."


def _repeatable(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.1:
        return invented_word(rng)
    if roll < 0.2:
        return str(rng.randrange(10 ** rng.randint(1, 4)))
    return rng.choice(_REPEATABLE)
