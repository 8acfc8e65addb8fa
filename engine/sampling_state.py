"""What sampling remembers of one sequence; rebuilt at any time from its parameters and its tokens.

The randomness is counter-based: the number that draws a token is a function of (seed, choice, index of the
token), so a seeded sequence draws the same tokens in any batch and after being preempted and recomputed.
Schedulers own the states and append what was sampled; `sampler` reads them.
"""

from collections.abc import Iterable, Sequence
from copy import copy

import numpy as np
import numpy.typing as npt

from .messages import SamplingParams
from .penalties import TokenCounts

GREEDY_BELOW = 1e-5
"""Temperatures below this mean greedy."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


class InvalidSamplingError(ValueError):
    """A sampling parameter cannot be used with this model; `param` names it."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class SamplingState:
    """One choice of one request: its parameters, how many tokens it has, what its penalties count.

    `fallback_seed` serves when the client gave no seed; the same one must be given when the state is rebuilt.
    `generated` are tokens that were already sampled, when a sequence is rebuilt or forked.
    """

    __slots__ = ("_later", "counts", "draws_greedily", "generated", "key", "params")

    def __init__(
        self,
        params: SamplingParams,
        prompt_token_ids: Sequence[int],
        *,
        choice: int,
        fallback_seed: int,
        generated: Iterable[int] = (),
    ) -> None:
        self.params = params
        self.draws_greedily = params.temperature < GREEDY_BELOW
        self.generated = 0
        self.key = stream_key(fallback_seed if params.seed is None else params.seed, choice)
        self.counts = _counts(params, prompt_token_ids)
        self._later: dict[int, SamplingState] = {}
        for token_id in generated:
            self.append(token_id)

    def append(self, token_id: int) -> None:
        """Take note of a token that was sampled for this sequence."""
        self.generated += 1
        if self.counts is not None:
            self.counts.add(token_id)

    def later(self, tokens: int, slot: int) -> "SamplingState":
        """Return the state so many tokens later, whichever they are; penalties exclude that.

        The same object for the same `slot` each time, as plans of batches want it.
        """
        assert self.counts is None, "penalties depend on which tokens come first"
        state = self._later.get(slot)
        if state is None:
            state = self._later[slot] = copy(self)
        state.generated = self.generated + tokens
        return state

    @property
    def must_not_stop(self) -> bool:
        """Stop tokens are masked for the next draw."""
        return self.generated < self.params.min_tokens


def check_token_ids(params: SamplingParams, vocab_size: int) -> None:
    """Raise `InvalidSamplingError` where parameters name tokens that the model does not have."""
    for param, token_ids in (("logit_bias", params.logit_bias), ("stop_token_ids", params.stop_token_ids)):
        for token_id in token_ids:
            if not 0 <= token_id < vocab_size:
                raise InvalidSamplingError(
                    param, f"{param}: token id {token_id} is not in 0..{vocab_size - 1}"
                )


def stream_key(seed: int, choice: int) -> int:
    """Return the 64-bit key of one choice's random stream; any integer seed is accepted."""
    return _mix(_mix((seed & _MASK) ^ _GOLDEN) + (choice + 1) * _GOLDEN)


def uniforms(keys: npt.NDArray[np.uint64], indices: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Return number `indices[i]` of stream `keys[i]`, in [0, 1) with 53 bits.

    SplitMix64 (Steele, Lea, Flood 2014), whose state after n numbers is `key + n * golden`.
    """
    z = keys + (indices + np.uint64(1)) * np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    z ^= z >> np.uint64(31)
    fractions: npt.NDArray[np.float64] = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return fractions


def _mix(z: int) -> int:
    z &= _MASK
    z = (z ^ (z >> 30)) * _MIX_1 & _MASK
    z = (z ^ (z >> 27)) * _MIX_2 & _MASK
    return z ^ (z >> 31)


def _counts(params: SamplingParams, prompt_token_ids: Sequence[int]) -> TokenCounts | None:
    if params.repetition_penalty != 1.0:
        return TokenCounts(prompt_token_ids)
    if params.frequency_penalty != 0.0 or params.presence_penalty != 0.0:
        return TokenCounts(())
    return None
