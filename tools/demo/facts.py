"""Facts that can be asked for later, and the sentences that stand between them.

No I/O: everything is drawn from the `random.Random` the caller passes in.  The answer to a question
about a fact is the fact's own sentence, so that a reader can check it by eye against the prompt.
`generator.py` puts facts and fillers together into a conversation.
"""

import random
from collections.abc import Callable

import msgspec

from .words import ANIMALS, CITIES, COLOURS, DAYS, FRUITS, NAMES, OBJECTS, THINGS

_CONSONANTS = "bcdfghjklmnprstvwz"
_VOWELS = "aeiou"
_INVENTED_SHARE = 0.05  # of the names, places and things: so that copying does not stop at known words


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence worth remembering and the ways to ask for it.

    `key` is unique within a conversation: two facts with one key would contradict each other.
    """

    key: str
    sentence: str
    questions: tuple[str, ...]


def invented_word(rng: random.Random) -> str:
    """A pronounceable word of two or three syllables that stands in no list."""
    syllables = (rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 3)))
    return "".join(syllables) + rng.choice("nrstlk")


def draw_fact(rng: random.Random) -> Fact:
    """One fact of a kind drawn by weight; codes are the most frequent kind."""
    (kind,) = rng.choices(list(_KINDS), weights=list(_KINDS.values()))
    return kind(rng)


def draw_filler(rng: random.Random) -> str:
    """One sentence that nobody asks about, some of them about the same things as the facts."""
    colour, thing, animal, fruit = (rng.choice(words) for words in (COLOURS, THINGS, ANIMALS, FRUITS))
    return rng.choice(_FILLERS).format(
        name=rng.choice(NAMES),
        other=rng.choice(NAMES),
        city=rng.choice(CITIES),
        object=rng.choice(OBJECTS),
        day=rng.choice(DAYS),
        colour=colour,
        thing=thing,
        animal=animal,
        fruit=fruit,
        a_colour=_with_article(colour),
        a_thing=_with_article(thing),
        an_animal=_with_article(animal),
        a_fruit=_with_article(fruit),
    )


def _with_article(word: str) -> str:
    return f"an {word}" if word[0] in _VOWELS else f"a {word}"


def _one_of(words: list[str], rng: random.Random) -> str:
    return invented_word(rng) if rng.random() < _INVENTED_SHARE else rng.choice(words)


def _person(rng: random.Random) -> str:
    return _one_of(NAMES, rng).capitalize()


def _place(rng: random.Random) -> str:
    return _one_of(CITIES, rng).capitalize()


def _four_digits(rng: random.Random) -> str:
    return f"{rng.randrange(10_000):04d}"


def _code(rng: random.Random) -> Fact:
    coloured = rng.random() < 0.85
    thing = f"{rng.choice(COLOURS)} {rng.choice(OBJECTS)}" if coloured else _one_of(OBJECTS + THINGS, rng)
    return Fact(
        key=f"code {thing}",
        sentence=f"The code of the {thing} is {_four_digits(rng)}.",
        questions=(
            f"What is the code of the {thing}?",
            f"What is the code of the {thing}?",
            f"what is the code of the {thing}?",
            f"Tell me the code of the {thing}.",
            f"Which code does the {thing} have?",
            f"Do you remember the code of the {thing}?",
            f"And the code of the {thing}?",
        ),
    )


def _number(rng: random.Random) -> Fact:
    name = _person(rng)
    return Fact(
        key=f"number {name}",
        sentence=f"The number of {name} is {_four_digits(rng)}.",
        questions=(
            f"What is the number of {name}?",
            f"Which number does {name} have?",
            f"Tell me the number of {name}.",
        ),
    )


def _home(rng: random.Random) -> Fact:
    name = _person(rng)
    return Fact(
        key=f"home {name}",
        sentence=f"{name} lives in {_place(rng)}.",
        questions=(f"Where does {name} live?", f"In which city does {name} live?"),
    )


def _platform(rng: random.Random) -> Fact:
    city = _place(rng)
    return Fact(
        key=f"train {city}",
        sentence=f"The train to {city} leaves from platform {rng.randint(1, 99)}.",
        questions=(
            f"Where does the train to {city} leave?",
            f"From which platform does the train to {city} leave?",
        ),
    )


def _favourite(rng: random.Random) -> Fact:
    name = _person(rng)
    return Fact(
        key=f"favourite {name}",
        sentence=f"The favourite animal of {name} is the {rng.choice(ANIMALS)}.",
        questions=(
            f"What is the favourite animal of {name}?",
            f"Which animal does {name} like best?",
        ),
    )


_KINDS: dict[Callable[[random.Random], Fact], int] = {
    _code: 64,
    _number: 12,
    _home: 8,
    _platform: 8,
    _favourite: 8,
}

_FILLERS = (
    "The weather was mild on {day}.",
    "It rained for most of {day}.",
    "{name} bought {a_fruit} at the market.",
    "{name} met {other} in {city} on {day}.",
    "The {colour} {object} was painted last year.",
    "Nobody looked at the {colour} {object} on {day}.",
    "By the {object} slept {an_animal}.",
    "{name} saw {an_animal} near the {thing}.",
    "The market in {city} opens early.",
    "{name} wrote a long letter to {other}.",
    "The road to {city} was closed on {day}.",
    "{name} and {other} had tea with {fruit} cake.",
    "Someone left {a_thing} on the {object}.",
    "The old {object} came from {city}.",
    "{name} wants to learn the piano.",
    "There was {a_colour} {thing} in the garden.",
    "On {day} the shop sells {fruit} juice.",
    "The {animal} ran across the street and was gone.",
    "{name} forgot the {thing} at home again.",
    "We talked about the {thing} for an hour.",
    "A letter from {city} arrived on {day}.",
    "{name} moved the {object} next to the window.",
    "The children counted every {animal} in the park.",
    "It was late, and the lights in {city} went out.",
    "{name} thinks that the {colour} {object} is too small.",
    "The meeting on {day} was short.",
    "Please water the plants and feed the {animal}.",
    "The {fruit} tree behind the house is very old.",
)
