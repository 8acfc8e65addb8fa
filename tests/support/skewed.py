"""A checkpoint whose router favours one expert of each layer over all others."""

from pathlib import Path

from .checkpoint_files import read_tensors, write_tensors
from .checkpoints import make_deepseek_v3

EXPERTS = 9
"""Of which a token takes two: the favourite, and one of eight others."""


def make_skewed(folder: Path) -> Path:
    """DeepSeek-V3's architecture; the last expert has eight times the load of the others' average."""
    make_deepseek_v3(folder, n_routed_experts=EXPERTS, n_group=1, topk_group=1)
    tensors = read_tensors(folder)
    for name, tensor in tensors.items():
        if name.endswith("e_score_correction_bias"):
            tensor.zero_()
            tensor[-1] = 2.0  # scores end at 1
    write_tensors(folder, tensors)
    return folder
