"""Which rows of a step in flight go on in the step behind it, before their draws are known. Pure.

A row's next token is all that a step lacks, and a runner can take it from the draw where it lies. So the host
needs to know a draw only where it decides something: a choice that ends by its length ends for certain, one
that may end by a stop token goes on, and what it computed too much is dropped when the step lands. Called by
`scheduler`.
"""

from .sequence import Sequence, Stage
from .step import Step


def rows_ending(flying: Step, max_model_len: int) -> set[int] | None:
    """Return the identities of the rows that end with `flying`; None: a draw must be known first."""
    ending = set()
    for row in flying.decode:
        if _ends_for_certain(row, max_model_len):
            ending.add(id(row))
        elif row.stage is Stage.DECODE and (len(row.choices) > 1 or _draws_by_history(row)):
            return None
    return ending


def inputs_in_flight(flying: Step, decode: list[Sequence]) -> list[int | None] | None:
    """Return `Step.follows` of a step behind `flying` that has these decode rows."""
    draws: dict[int, int] = {}
    place = 0
    for row in flying.decode:
        draws[id(row)] = place
        place += len(row.choices)
    follows = [draws.get(id(row)) for row in decode]
    return None if all(draw is None for draw in follows) else follows


def _ends_for_certain(row: Sequence, max_model_len: int) -> bool:
    longest = min(row.request.prompt_tokens + row.request.generate.sampling.max_tokens, max_model_len)
    return len(row.tokens) + 1 >= longest


def _draws_by_history(row: Sequence) -> bool:
    """Tell whether the sampler must know every earlier token to draw the next one."""
    sampling = row.request.generate.sampling
    return (
        sampling.repetition_penalty != 1.0
        or sampling.frequency_penalty != 0.0
        or sampling.presence_penalty != 0.0
        or row.generated < sampling.min_tokens
    )
