"""One small tokenizer and one tiny model shape for all tests of the demo model."""

import pytest
import torch
from tokenizers import Tokenizer

from baton.tools.demo.config import DemoConfig
from baton.tools.demo.generator import Measure
from baton.tools.demo.tokenizer import encode, train_tokenizer


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer(seed=1, vocab_size=512, dialogues=150)


@pytest.fixture(scope="session")
def measure(tokenizer: Tokenizer) -> Measure:
    return lambda text: len(encode(tokenizer, text))


@pytest.fixture(scope="session")
def tiny() -> DemoConfig:
    return DemoConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=4,
        v_head_dim=6,
    )
