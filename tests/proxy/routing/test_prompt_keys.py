"""What is hashed in C has the keys that the package xxhash gives it."""

from random import Random
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

SHORTEST_BYTES = 241
SEED = st.integers(0, 2**64 - 1)
RANDOM = st.randoms(use_true_random=False)


def by_package(data: bytes, chunk_bytes: int, seed: int) -> list[int]:
    keys = []
    for start in range(0, len(data) - chunk_bytes + 1, chunk_bytes):
        seed = xxh3_64_intdigest(data[start : start + chunk_bytes], seed)
        keys.append(seed)
    return keys


@pytest.fixture
def hashes(prompt_keys: ModuleType) -> ModuleType:
    if prompt_keys.hashed(b"", 1024, 0) is None:
        pytest.skip("no AVX2")
    return prompt_keys


@settings(max_examples=300, deadline=None, derandomize=True)
@given(random=RANDOM, length=st.integers(0, 9000), seed=SEED, chunk=st.integers(SHORTEST_BYTES, 3000))
def test_keys_are_those_of_the_package(
    prompt_keys: ModuleType, random: Random, length: int, seed: int, chunk: int
) -> None:
    text = random.randbytes(length)
    assert prompt_keys.hashed(text, chunk, seed) in (None, by_package(text, chunk, seed))


@pytest.mark.parametrize("chunk", [SHORTEST_BYTES, 255, 256, 1023, 1024, 1025, 1088, 1089, 2048, 2049, 4096])
def test_every_length_of_chunk_ends_as_it_should(hashes: ModuleType, chunk: int) -> None:
    text = bytes(range(256)) * 64
    for seed in (0, 1, 2**63, 2**64 - 1):
        assert hashes.hashed(text, chunk, seed) == by_package(text, chunk, seed)
        assert hashes.hashed(memoryview(text)[1:], chunk, seed) == by_package(text[1:], chunk, seed)


def test_short_chunks_are_left_to_the_package(prompt_keys: ModuleType) -> None:
    assert prompt_keys.hashed(b"x" * 1000, SHORTEST_BYTES - 1, 0) is None


def test_a_chunk_must_have_a_length(prompt_keys: ModuleType) -> None:
    assert prompt_keys.hashed(b"x", 0, 0) is None
    assert prompt_keys.hashed(b"x", -1, 0) is None
