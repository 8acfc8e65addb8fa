"""Every answer follows from the prompt, the same seed gives the same text, lengths are as promised."""

import random
import re
from collections import defaultdict

import pytest

from baton.tools.demo.generator import Dialogue, Kind, Measure, Turn, exam, prompt_tokens, training_dialogue


@pytest.fixture(scope="module")
def questions(measure: Measure) -> list[Dialogue]:
    return list(exam(seed=11, count=150, shortest=50, longest=600, measure=measure))


def numbers(text: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", text)]


def last_sentence(turn: Turn) -> str:
    return re.split(r"(?<=[.?!])\s", turn.user)[-1]


def of_kind(questions: list[Dialogue], kind: Kind) -> list[Dialogue]:
    found = [dialogue for dialogue in questions if dialogue.turns[-1].kind is kind]
    assert found
    return found


def test_a_recalled_sentence_stands_once_or_more_in_the_prompt(questions: list[Dialogue]) -> None:
    for dialogue in of_kind(questions, Kind.RECALL):
        prompt = " ".join(message["content"] for message in dialogue.messages())
        assert dialogue.turns[-1].answer in prompt


def test_no_prompt_states_two_codes_for_one_thing(questions: list[Dialogue]) -> None:
    for dialogue in questions:
        codes = defaultdict(set)
        for message in dialogue.messages():
            for thing, code in re.findall(
                r"(?:code|number) of (?:the )?([\w ]+) is (\d{4})", message["content"]
            ):
                codes[thing].add(code)
        assert all(len(stated) == 1 for stated in codes.values())


def test_a_sort_holds_the_same_numbers_in_ascending_order(questions: list[Dialogue]) -> None:
    for dialogue in of_kind(questions, Kind.SORT):
        turn = dialogue.turns[-1]
        assert numbers(turn.answer) == sorted(numbers(last_sentence(turn)))


def test_a_count_runs_from_its_first_to_its_last_number_by_ones(questions: list[Dialogue]) -> None:
    for dialogue in of_kind(questions, Kind.COUNT):
        turn = dialogue.turns[-1]
        first, last = numbers(last_sentence(turn))
        step = 1 if last > first else -1
        assert numbers(turn.answer) == list(range(first, last + step, step))


def test_a_repetition_is_what_follows_the_colon(questions: list[Dialogue]) -> None:
    for dialogue in of_kind(questions, Kind.REPEAT):
        turn = dialogue.turns[-1]
        assert last_sentence(turn).endswith(turn.answer)


def test_prompts_keep_to_the_promised_lengths(questions: list[Dialogue], measure: Measure) -> None:
    lengths = [prompt_tokens(dialogue, measure) for dialogue in questions]

    assert all(50 <= length <= 600 for length in lengths)
    assert min(lengths) < 150
    assert max(lengths) > 500


def test_the_same_seed_gives_the_same_exam_and_another_seed_another(measure: Measure) -> None:
    def draw(seed: int) -> list[Dialogue]:
        return list(exam(seed=seed, count=5, shortest=50, longest=300, measure=measure))

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_a_training_conversation_fills_its_length(measure: Measure) -> None:
    rng = random.Random(2)
    for _ in range(20):
        dialogue = training_dialogue(rng, 256, measure)
        assert prompt_tokens(dialogue, measure) + measure(dialogue.turns[-1].answer) + 1 >= 256


def test_only_the_exact_answer_is_right() -> None:
    turn = Turn(kind=Kind.RECALL, user="What?", answer="The code of the red door is 4827.")
    dialogue = Dialogue(system=None, turns=(turn,))

    assert dialogue.is_right(" The code of the red door is 4827.\n")
    assert not dialogue.is_right("The code of the red door is 4828.")
    assert not dialogue.is_right("")
