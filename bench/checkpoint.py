"""The checkpoints the benches run on: published architectures at a few million parameters, random weights."""

from pathlib import Path

from tokenizers import Tokenizer

from ..tests.support.checkpoint_files import edit_json
from ..tests.support.checkpoints import make_deepseek_v3, make_qwen3_moe

VOCABULARY = 2048
MAX_LEN = 8192


def make_bench_checkpoint(folder: Path) -> Path:
    """Write DeepSeek-V3's: hidden 256, 4 layers (1 dense), 4 heads, latent 512 + 64, 8 experts, 1 shared.

    Top-2, 8.3 million parameters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make_deepseek_v3(
        folder,
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        kv_lora_rank=512,
        q_lora_rank=192,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        n_routed_experts=8,
        n_shared_experts=1,
        n_group=1,
        topk_group=1,
        intermediate_size=768,
        moe_intermediate_size=128,
        max_position_embeddings=MAX_LEN,
        rope_scaling=None,
    )
    _widen_tokenizer(folder)
    return folder


def make_bench_qwen3_moe(folder: Path) -> Path:
    """Write Qwen3-MoE's: hidden 256, 4 layers, 4 heads over 2 of keys of 64, 8 experts top-2.

    5.0 million parameters.
    """
    folder.mkdir(parents=True, exist_ok=True)
    make_qwen3_moe(
        folder,
        vocab_size=VOCABULARY,
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        num_experts=8,
        intermediate_size=768,
        moe_intermediate_size=128,
        max_position_embeddings=MAX_LEN,
    )
    _widen_tokenizer(folder)
    return folder


def _widen_tokenizer(folder: Path) -> None:
    """Give every id of the vocabulary a text of its own."""
    file = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.add_tokens([f" word{number}" for number in range(tokenizer.get_vocab_size(), VOCABULARY)])
    tokenizer.save(str(file))
    edit_json(folder / "tokenizer_config.json", model_max_length=MAX_LEN)
