"""Sizes that leave no room are refused by the setting's name."""

import pytest

from baton.engine.config import RanksConfig, Role, SpeculativeConfig, WorkerConfig
from baton.engine.sizing import SizingError, engine_limits, pool_blocks
from support.fake_model import CONFIG, FakeModel

LAYOUT = FakeModel().kv_layout(64)


def config(**changes: object) -> WorkerConfig:
    return WorkerConfig(model="m", role=Role.DECODE, **changes)  # type: ignore[arg-type]


def test_the_pool_is_as_large_as_its_bytes_allow() -> None:
    assert pool_blocks(config(kv_cache_bytes=10 * LAYOUT.block_bytes + 5), LAYOUT) == 10


def test_a_number_of_blocks_overrides_the_bytes() -> None:
    assert pool_blocks(config(num_blocks=7), LAYOUT) == 7


def test_a_pool_without_room_is_refused() -> None:
    with pytest.raises(SizingError, match="kv_cache_bytes: room for 1 blocks"):
        pool_blocks(config(kv_cache_bytes=LAYOUT.block_bytes), LAYOUT)


def test_a_sequence_is_no_longer_than_the_pool_holds() -> None:
    assert engine_limits(config(), CONFIG, num_blocks=1000).max_model_len == 4096
    assert engine_limits(config(), CONFIG, num_blocks=11).max_model_len == 640
    assert engine_limits(config(max_model_len=100), CONFIG, num_blocks=11).max_model_len == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_model_len": 5000}, "max_model_len: 5000 is not between 2 and the model's 4096"),
        ({"max_num_seqs": 0}, "max_num_seqs: 0"),
        ({"max_batched_tokens": 0}, "max_batched_tokens: 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SizingError, match=message):
        engine_limits(config(**changes), CONFIG, num_blocks=100)


def test_a_decode_step_has_room_for_all_guesses() -> None:
    drafting = config(max_num_seqs=8, speculative=SpeculativeConfig(tokens=2))

    assert (drafting.draft_tokens, drafting.max_decode_rows) == (2, 24)
    assert (config(max_num_seqs=8).draft_tokens, config(max_num_seqs=8).max_decode_rows) == (0, 8)
    assert engine_limits(drafting, CONFIG, num_blocks=1000).draft_tokens == 2


def test_ranks_do_not_draft() -> None:
    with pytest.raises(ValueError, match="speculative cannot be used with ranks"):
        config(ranks=RanksConfig(rank=0, size=2, port=1), speculative=SpeculativeConfig())


def test_guessing_and_running_ahead_exclude_each_other() -> None:
    assert config(device="cuda").runs_ahead
    assert not config(device="cuda", speculative=SpeculativeConfig()).runs_ahead
    with pytest.raises(ValueError, match="speculative cannot be used with run_ahead"):
        config(run_ahead=True, speculative=SpeculativeConfig())
