"""Prompts are drawn from a seed, and their answer stands in them once."""

import random

from baton.bench.prompts import draw_recall, draw_token_ids


def test_the_code_that_is_asked_for_stands_with_its_thing() -> None:
    recall = draw_recall(random.Random(1), facts=30)
    asked = recall.prompt.rpartition("What is the code of the ")[2].removesuffix("?")

    assert f"The code of the {asked} is {recall.code}." in recall.prompt
    assert recall.prompt.count(f"code of the {asked} ") == 1
    assert recall.prompt.count(" is ") == 31


def test_a_seed_gives_the_same_prompts() -> None:
    assert draw_recall(random.Random(2), 5) == draw_recall(random.Random(2), 5)
    assert draw_token_ids(random.Random(2), 9, 100) == draw_token_ids(random.Random(2), 9, 100)
    assert min(draw_token_ids(random.Random(2), 999, 100)) >= 8
