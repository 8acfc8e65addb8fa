"""Conversations with answers that can be checked, without end and from a seed.

No I/O and no clock: the same `random.Random` gives the same conversation.  Lengths are counted in
tokens by the `Measure` the caller passes, so that the text does not depend on one tokenizer.
`train.py` learns from `training_dialogue`; `evaluate.py` asks what `exam` draws.
"""

import enum
import random
from collections.abc import Callable, Iterator

import msgspec

from .facts import Fact, draw_fact, draw_filler
from .tasks import draw_count, draw_repeat, draw_sort

Measure = Callable[[str], int]  # tokens in a piece of text

MOST_FACTS = 40
_FACT_TOKENS = 16  # about the longest fact, to bound how many fit
_QUESTION_TOKENS = 60  # kept free for the last question and its answer when a prompt's length is promised
_RECALL_SHARE = 0.7
_NEWS_SHARE = 0.12  # of later turns: a new fact is stated before the question
_SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You answer in one sentence.",
    "You are a careful assistant with a good memory.",
)
_OPENINGS = ("Here are some notes.", "Remember these facts.", "Please read this.", "Listen carefully.")


class Kind(enum.Enum):
    """What a question asks for."""

    RECALL = "recall"
    COUNT = "count"
    REPEAT = "repeat"
    SORT = "sort"


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One user message and its one right answer."""

    kind: Kind
    user: str
    answer: str


class Dialogue(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation; every turn carries its right answer."""

    system: str | None
    turns: tuple[Turn, ...]

    def messages(self) -> list[dict[str, str]]:
        """Chat messages up to and including the last question, without its answer."""
        messages = [] if self.system is None else [{"role": "system", "content": self.system}]
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.user})
            messages.append({"role": "assistant", "content": turn.answer})
        return messages[:-1]

    def is_right(self, reply: str) -> bool:
        """Whether `reply` answers the last question exactly (white space around it does not count)."""
        return reply.strip() == self.turns[-1].answer


def training_dialogue(rng: random.Random, tokens: int, measure: Measure) -> Dialogue:
    """A conversation of at least `tokens` tokens: notes first, then questions until it is full."""
    share = 0.0 if rng.random() < 0.08 else rng.uniform(0.1, 0.93)
    return _dialogue(rng, context_tokens=int(share * tokens), total_tokens=tokens, measure=measure)


def exam(seed: int, count: int, shortest: int, longest: int, measure: Measure) -> Iterator[Dialogue]:
    """`count` fresh conversations whose prompts have between `shortest` and `longest` tokens.

    Seven of ten ask one question after the notes; the others are asked in a later turn.
    """
    rng = random.Random(f"exam {seed}")
    while count:
        tokens = rng.randint(shortest, longest)
        if rng.random() < 0.7:
            context, total = tokens - 20, tokens - 20
        else:
            context, total = int(tokens * rng.uniform(0.2, 0.8)), tokens - _QUESTION_TOKENS
        dialogue = _dialogue(rng, context_tokens=context, total_tokens=total, measure=measure)
        if shortest <= prompt_tokens(dialogue, measure) <= longest:
            yield dialogue
            count -= 1


def prompt_tokens(dialogue: Dialogue, measure: Measure) -> int:
    """Tokens of the prompt: one for each role mark, one for each end of an answer, one at the start."""
    messages = dialogue.messages()
    ends = sum(message["role"] == "assistant" for message in messages)
    return 2 + ends + sum(1 + measure(message["content"]) for message in messages)


def _dialogue(rng: random.Random, *, context_tokens: int, total_tokens: int, measure: Measure) -> Dialogue:
    facts, notes = _notes(rng, context_tokens, measure)
    unasked = rng.sample(facts, len(facts))
    known = {fact.key for fact in facts}
    system = rng.choice(_SYSTEM_PROMPTS) if rng.random() < 0.25 else None
    prefix = notes
    if notes and rng.random() < 0.15:
        system, prefix = notes, ""
    used = 2 + (measure(system) if system else 0)
    turns: list[Turn] = []
    while not turns or used < total_tokens:
        if turns and rng.random() < _NEWS_SHARE:
            prefix = _news(rng, known, unasked)
        turn = _turn(rng, prefix, unasked)
        prefix = ""
        turns.append(turn)
        used += 3 + measure(turn.user) + measure(turn.answer)
    return Dialogue(system=system, turns=tuple(turns))


def _notes(rng: random.Random, tokens: int, measure: Measure) -> tuple[list[Fact], str]:
    """Facts in a random order among fillers, about `tokens` tokens in all."""
    most = min(MOST_FACTS, tokens // _FACT_TOKENS)
    if most < 1:
        return [], ""
    wanted = rng.randint(1, most)
    by_key = {fact.key: fact for fact in (draw_fact(rng) for _ in range(wanted))}
    sentences = [fact.sentence for fact in by_key.values()]
    used = sum(1 + measure(sentence) for sentence in sentences)
    while used < tokens:
        sentences.append(draw_filler(rng))
        used += measure(sentences[-1])
    rng.shuffle(sentences)
    if rng.random() < 0.3:
        sentences.insert(0, rng.choice(_OPENINGS))
    return list(by_key.values()), " ".join(sentences)


def _news(rng: random.Random, known: set[str], unasked: list[Fact]) -> str:
    fact = draw_fact(rng)
    if fact.key in known:
        return draw_filler(rng)
    known.add(fact.key)
    unasked.append(fact)
    rng.shuffle(unasked)
    return fact.sentence


def _turn(rng: random.Random, prefix: str, unasked: list[Fact]) -> Turn:
    lead = prefix + rng.choice((" ", " ", "\n")) if prefix else ""
    if unasked and rng.random() < _RECALL_SHARE:
        fact = unasked.pop()
        return Turn(kind=Kind.RECALL, user=lead + rng.choice(fact.questions), answer=fact.sentence)
    kind, draw = rng.choice(_JOBS)
    question, answer = draw(rng)
    return Turn(kind=kind, user=lead + question, answer=answer)


_JOBS = ((Kind.COUNT, draw_count), (Kind.REPEAT, draw_repeat), (Kind.SORT, draw_sort))
