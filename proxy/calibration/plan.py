"""What to ask, so that every coefficient of the engine model shows in the answers. Pure; repeats by seed.

    1. prompts of many lengths, one at a time: prefill, transfer, and what is lost around the engine
    2. batches: prompts that were asked before, so that little is left to prefill, decode together

A prompt is random token ids, so no two requests share a prefix unless they are the same.
"""

import random
from math import exp, log
from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=1)]

SHORTEST_PROMPT = 16
LENGTHS = 48
"""Different prompt lengths, evenly spread by ratio: short ones show a step's cost, long ones attention's."""
FIRST_ORDINARY_ID = 8
"""Token ids below are often special ones."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One completion."""

    prompt: tuple[int, ...]
    output_tokens: int


class CalibrationPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much to ask."""

    longest_prompt: Annotated[int, msgspec.Meta(ge=4 * SHORTEST_PROMPT)] = 1024
    repeats: Count = 3
    """Batches of each size."""
    most_streams: Annotated[int, msgspec.Meta(ge=2)] = 16
    """Size of the largest batch; the smaller ones are its halves."""
    decoded_tokens: Annotated[int, msgspec.Meta(ge=16)] = 48
    """Length of the answers in a batch."""
    vocabulary: Annotated[int, msgspec.Meta(gt=FIRST_ORDINARY_ID)] = 1000
    """Token ids below this exist."""
    seed: int = 0

    def lone_prompts(self) -> list[Ask]:
        """Return requests to send one after the other, in no order of length: a drift is no trend."""
        lot = random.Random(self.seed)  # noqa: S311 (a lot, no secret)
        widest = log(self.longest_prompt / SHORTEST_PROMPT)
        # Evenly spread, and no length twice: what a worker does once for each shape is part of what it costs.
        places = [(place + lot.random()) / LENGTHS for place in range(LENGTHS)]
        lengths = sorted({round(SHORTEST_PROMPT * exp(widest * place)) for place in places})
        lot.shuffle(lengths)
        return [Ask(prompt=self._draw(lot, length), output_tokens=2) for length in lengths]

    def batches(self) -> list[tuple[Ask, ...]]:
        """Return requests to send together, batch after batch; each prompt is to be asked for once before."""
        found = []
        for context in (self.longest_prompt, self.longest_prompt // 4):
            lot = random.Random(f"{self.seed} {context}")  # noqa: S311
            asks = [
                Ask(prompt=self._draw(lot, context), output_tokens=self.decoded_tokens)
                for _ in range(self.most_streams)
            ]
            sizes = [self.most_streams >> halved for halved in range(self.most_streams.bit_length())]
            found += [tuple(asks[:streams]) for streams in sizes] * self.repeats
        return found

    def random_load(self, requests: int, *, seed: int) -> list[Ask]:
        """Return requests of mixed lengths that were not asked before."""
        lot = random.Random(f"load {seed}")  # noqa: S311
        return [
            Ask(
                prompt=self._draw(lot, lot.randint(SHORTEST_PROMPT, self.longest_prompt)),
                output_tokens=lot.randint(self.decoded_tokens // 3, self.decoded_tokens),
            )
            for _ in range(requests)
        ]

    def _draw(self, lot: random.Random, tokens: int) -> tuple[int, ...]:
        return tuple(lot.randrange(FIRST_ORDINARY_ID, self.vocabulary) for _ in range(tokens))
