"""Staged batches say exactly what the sequences are, whatever was staged before."""

import random

import pytest
import torch

from baton.engine.batch import DecodeBatch
from baton.engine.messages import Generate, SamplingParams
from baton.engine.sequence import Sequence, new_request
from baton.engine.staging import DecodeStaging, PrefillStaging
from baton.engine.step import Chunk

BLOCK_TOKENS = 4
CPU = torch.device("cpu")


def sequence_of(tokens: int, computed: int, blocks: list[int]) -> Sequence:
    generate = Generate(
        request_id="r",
        external_id="r",
        prompt_token_ids=list(range(10, 10 + tokens)),
        sampling=SamplingParams(max_tokens=1),
    )
    [sequence] = new_request(generate, 1, 0.0).sequences
    sequence.num_computed, sequence.blocks = computed, blocks
    return sequence


def staging() -> DecodeStaging:
    return DecodeStaging(
        max_rows=8,
        max_blocks=16,
        block_tokens=BLOCK_TOKENS,
        device=CPU,
        bucket_of=lambda live: -(-live // 4) * 4,
    )


def assert_says(batch: DecodeBatch, sequences: list[Sequence]) -> None:
    assert batch.live == len(sequences)
    for row, sequence in enumerate(sequences):
        position = sequence.num_computed
        assert batch.token_ids[row] == sequence.tokens[-1]
        assert batch.positions[row] == position
        assert batch.context_lens[row] == position + 1
        block = sequence.blocks[position // BLOCK_TOKENS]
        assert batch.slots[row] == block * BLOCK_TOKENS + position % BLOCK_TOKENS
        table = batch.block_tables[row].tolist()
        assert table == sequence.blocks + [0] * (len(table) - len(sequence.blocks))
    for tensor in (batch.token_ids, batch.positions, batch.slots, batch.context_lens, batch.block_tables):
        assert len(tensor) == -(-batch.live // 4) * 4
        assert not tensor[batch.live :].any()


def test_chunks_are_packed_one_after_the_other() -> None:
    first, second = sequence_of(9, 3, [7, 2, 5]), sequence_of(2, 0, [4])
    batch = PrefillStaging(16, BLOCK_TOKENS, CPU).pack([Chunk(first, 4), Chunk(second, 2)], [second])

    assert batch.token_ids.tolist() == [13, 14, 15, 16, 10, 11]
    assert batch.positions.tolist() == [3, 4, 5, 6, 0, 1]
    assert batch.slots.tolist() == [31, 8, 9, 10, 16, 17]
    assert (batch.query_starts, batch.context_lens) == ([0, 4, 6], [3, 0])
    assert batch.block_tables.tolist() == [[7, 2, 5], [4, 0, 0]]
    assert batch.logit_rows.tolist() == [5]


def test_a_step_may_want_no_logits() -> None:
    batch = PrefillStaging(16, BLOCK_TOKENS, CPU).pack([Chunk(sequence_of(9, 0, [7, 2, 5]), 4)], [])

    assert batch.logit_rows.tolist() == []


def test_growth_a_copied_last_block_and_a_new_list_are_all_noticed() -> None:
    decode = staging()
    sequence = sequence_of(8, 7, [3, 4])
    assert_says(decode.pack([sequence]), [sequence])

    sequence.tokens.append(1)
    sequence.num_computed += 1
    sequence.blocks.append(5)
    assert_says(decode.pack([sequence]), [sequence])
    sequence.blocks[-1] = 6
    assert_says(decode.pack([sequence]), [sequence])
    sequence.blocks = [8, 9, 6]
    assert_says(decode.pack([sequence]), [sequence])


@pytest.mark.parametrize("seed", range(20))
def test_any_history_of_batches_ends_in_the_right_tensors(seed: int) -> None:
    generator = random.Random(seed)
    decode = staging()
    live: list[Sequence] = []
    for _ in range(60):
        change = generator.random()
        if change < 0.3 and len(live) < 8:
            count = generator.randint(1, 14)
            tokens = generator.randint((count - 1) * BLOCK_TOKENS + 1, count * BLOCK_TOKENS)
            live.append(sequence_of(tokens, tokens - 1, generator.sample(range(1, 99), count)))
        elif change < 0.45 and live:
            row = generator.randrange(len(live))
            live[row] = live[-1]
            live.pop()
        for sequence in live:
            sequence.tokens.append(generator.randrange(99))
            sequence.num_computed += 1
            if sequence.num_computed // BLOCK_TOKENS == len(sequence.blocks):
                sequence.blocks.append(generator.randint(1, 99))
        live = [sequence for sequence in live if len(sequence.blocks) < 16]
        if live:
            assert_says(decode.pack(live), live)


def test_a_row_goes_on_only_with_the_same_sequence_one_token_longer() -> None:
    decode = staging()
    first, second = sequence_of(8, 5, [3, 4]), sequence_of(8, 2, [7])
    assert decode.pack([first, second]).continued == [False, False]

    for sequence in (first, second):
        sequence.num_computed += 1
    assert decode.pack([first, second]).continued == [True, True]

    first.num_computed += 1  # the second is computed anew, in other blocks
    second.blocks = [7]
    assert decode.pack([first, second]).continued == [True, False]

    second.num_computed += 1  # the first has left, and the second takes its row
    assert decode.pack([second]).continued == [False]

    assert decode.pack([second]).continued == [False]
