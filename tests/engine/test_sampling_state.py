"""Random streams are SplitMix64's, and parameters that name foreign tokens are refused."""

import numpy as np
import pytest

from baton.engine.messages import SamplingParams
from baton.engine.sampling_state import InvalidSamplingError, check_token_ids, stream_key, uniforms


def test_uniforms_are_the_published_splitmix64_sequence() -> None:
    # First outputs of the reference implementation for state 1234567.
    reference = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    keys = np.full(3, 1234567, dtype=np.uint64)
    drawn = uniforms(keys, np.arange(3, dtype=np.uint64))

    assert drawn.tolist() == [(number >> 11) * 2.0**-53 for number in reference]


def test_uniforms_stay_below_one_and_are_uniform() -> None:
    drawn = uniforms(np.full(100_000, stream_key(0, 0), np.uint64), np.arange(100_000, dtype=np.uint64))

    assert drawn.min() >= 0.0
    assert drawn.max() < 1.0
    assert np.abs(np.histogram(drawn, bins=20, range=(0, 1))[0] - 5_000).max() < 300


def test_neighbouring_seeds_and_choices_have_different_streams() -> None:
    keys = {stream_key(seed, choice) for seed in range(-50, 50) for choice in range(8)}

    assert len(keys) == 800


@pytest.mark.parametrize(
    ("params", "param"),
    [
        (SamplingParams(max_tokens=1, logit_bias={100: 1.0}), "logit_bias"),
        (SamplingParams(max_tokens=1, logit_bias={-1: 1.0}), "logit_bias"),
        (SamplingParams(max_tokens=1, stop_token_ids=(3, 100)), "stop_token_ids"),
    ],
)
def test_tokens_outside_the_vocabulary_are_refused_by_name(params: SamplingParams, param: str) -> None:
    with pytest.raises(InvalidSamplingError, match=param) as failure:
        check_token_ids(params, vocab_size=100)

    assert failure.value.param == param


def test_tokens_of_the_vocabulary_are_accepted() -> None:
    check_token_ids(SamplingParams(max_tokens=1, logit_bias={0: 1.0}, stop_token_ids=(99,)), vocab_size=100)
