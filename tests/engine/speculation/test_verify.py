"""Guesses are checked in rows of their own, accepted up to the first wrong one, and made where of use."""

import pytest

from baton.engine.messages import Generate, SamplingParams
from baton.engine.sampler import SampledToken
from baton.engine.sequence import Sequence, new_request
from baton.engine.speculation.verify import accepted, rows_of, wanted


def sequence(tokens: int = 10, drafts: tuple[int, ...] = (), *, n: int = 1, **sampling: object) -> Sequence:
    generate = Generate(
        request_id="r",
        external_id="x",
        prompt_token_ids=list(range(tokens)),
        sampling=SamplingParams(**{"max_tokens": 100, **sampling}),  # type: ignore[arg-type]
        n=n,
    )
    [trunk] = new_request(generate, 1, 0.0).sequences
    trunk.num_computed = tokens - 1
    trunk.drafts = list(drafts)
    trunk.blocks = [1, 2, 3, 4]
    return trunk


def drawn(*token_ids: int | None) -> list[SampledToken | None]:
    return [None if token is None else SampledToken(token_id=token, logprob=None) for token in token_ids]


def test_rows_come_by_how_far_ahead_they_are_so_that_the_first_ones_are_the_batch() -> None:
    batch = [sequence(10, (50, 51)), sequence(3), sequence(7, (60,))]

    rows = rows_of(batch)

    assert [(batch.index(row.sequence), row.token_id, row.place) for row in rows] == [
        (0, 9, 9),
        (1, 2, 2),
        (2, 6, 6),
        (0, 50, 10),
        (2, 60, 7),
        (0, 51, 11),
    ]


@pytest.mark.parametrize(
    ("drafts", "draws", "tokens"),
    [
        ([], [5], [5]),
        ([5], [5, 6], [5, 6]),
        ([5], [4, 6], [4]),
        ([5, 6], [5, 6, 7], [5, 6, 7]),
        ([5, 6], [5, 9, 7], [5, 9]),
        ([5, 6], [8, 6, 7], [8]),
        ([5, 6], [5, None, 7], [5]),
        ([5, 6], [None, 6, 7], []),
    ],
)
def test_tokens_are_taken_up_to_and_after_the_last_right_guess(
    drafts: list[int], draws: list[int | None], tokens: list[int]
) -> None:
    assert [draw.token_id for draw in accepted(drafts, drawn(*draws))] == tokens


def count(one: Sequence, *token_ids: int, most: int = 3, max_model_len: int = 1000) -> int:
    tokens = [SampledToken(token_id=token, logprob=None) for token in token_ids]
    return wanted(one, tokens, most=most, max_model_len=max_model_len, block_tokens=4)


def test_as_many_guesses_are_wanted_as_the_draft_may_make() -> None:
    assert count(sequence(10), 5) == 3
    assert count(sequence(10), 5, most=1) == 1


def test_no_guess_goes_beyond_the_end_of_the_answer() -> None:
    assert count(sequence(10, max_tokens=3), 5) == 1
    assert count(sequence(10, max_tokens=3), 5, 6) == 0
    assert count(sequence(10), 5, max_model_len=13) == 1


def test_the_draft_writes_in_blocks_of_the_sequence_only() -> None:
    assert count(sequence(14), 5) == 3
    assert count(sequence(15), 5) == 2
    assert count(sequence(15), 5, 6) == 1


def test_a_sequence_that_stops_or_is_to_fork_wants_none() -> None:
    assert count(sequence(10, stop_token_ids=(5,)), 4, 5) == 0
    assert count(sequence(10, n=2), 5) == 0
    assert count(sequence(10)) == 0
