"""Prompts whose right answer is known: facts, then a question about one of them."""

import random

import msgspec

COLOURS = [
    "red",
    "blue",
    "green",
    "white",
    "black",
    "yellow",
    "brown",
    "grey",
    "pink",
    "purple",
    "orange",
    "golden",
]
OBJECTS = [
    "door",
    "gate",
    "box",
    "safe",
    "garage",
    "locker",
    "house",
    "room",
    "cellar",
    "window",
    "chest",
    "drawer",
]


class Recall(msgspec.Struct, frozen=True, kw_only=True):
    """A chat question, and the digits that a right answer holds."""

    prompt: str
    code: str


def draw_recall(rng: random.Random, facts: int) -> Recall:
    """Return `facts` codes (about 12 tokens each; at most 144) and a question about one."""
    things = [f"{colour} {thing}" for colour in COLOURS for thing in OBJECTS]
    codes = {thing: f"{rng.randrange(10_000):04d}" for thing in rng.sample(things, min(facts, len(things)))}
    asked = rng.choice(list(codes))
    sentences = [f"The code of the {thing} is {code}." for thing, code in codes.items()]
    question = f"What is the code of the {asked}?"
    return Recall(prompt=" ".join([*sentences, question]), code=codes[asked])


def draw_token_ids(rng: random.Random, count: int, vocabulary: int) -> list[int]:
    """Return `count` token ids, none of the first eight (where special tokens lie)."""
    return [rng.randrange(8, vocabulary) for _ in range(count)]
