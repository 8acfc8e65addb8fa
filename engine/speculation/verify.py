"""Which rows of a decode step check which guesses, how many are accepted, how many are wanted next. Pure.

Rows are ordered by how far ahead they are: first each sequence's last token, then the first guess of each
that has one, then the second. So row `i` is the scheduler's row `i`, whatever is guessed.
"""

from dataclasses import dataclass

from ..sampler import SampledToken
from ..sequence import Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """One token of a sequence, `ahead` places after its last one."""

    sequence: Sequence
    ahead: int

    @property
    def token_id(self) -> int:
        """The token to compute: the last one, or a guess."""
        return self.sequence.drafts[self.ahead - 1] if self.ahead else self.sequence.tokens[-1]

    @property
    def place(self) -> int:
        """Its position in the sequence."""
        return self.sequence.num_computed + self.ahead


def rows_of(sequences: list[Sequence]) -> list[Row]:
    """Return the rows that check all guesses of a batch."""
    most = max((len(sequence.drafts) for sequence in sequences), default=0)
    return [
        Row(sequence, ahead)
        for ahead in range(most + 1)
        for sequence in sequences
        if ahead <= len(sequence.drafts)
    ]


def accepted(drafts: list[int], draws: list[SampledToken | None]) -> list[SampledToken]:
    """Return the tokens that a sequence gets: those drawn up to and after the last right guess.

    draws  one for the last token and each guess, None where the logits allow no token
    """
    tokens: list[SampledToken] = []
    for ahead, draw in enumerate(draws):
        if draw is None:
            break  # after accepted tokens the next step meets it again, as its first row
        tokens.append(draw)
        if ahead < len(drafts) and draw.token_id != drafts[ahead]:
            break
    return tokens


def wanted(
    sequence: Sequence, tokens: list[SampledToken], *, most: int, max_model_len: int, block_tokens: int
) -> int:
    """Return how many guesses are of use after `tokens` were drawn, 0 where the sequence ends with them.

    The draft writes its KV from the place before the last token on, and no further than the blocks reach.
    """
    sampling = sequence.request.generate.sampling
    if not tokens or len(sequence.choices) > 1 or tokens[-1].token_id in sampling.stop_token_ids:
        return 0
    length = len(sequence.tokens) + len(tokens)
    left = min(sampling.max_tokens - sequence.generated - len(tokens), max_model_len - length)
    room = len(sequence.blocks) * block_tokens - (length - 2)
    return max(0, min(most, left - 1, room))
