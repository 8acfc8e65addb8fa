"""Identity of a model's KV: with equal digests, two workers compute the same KV for the same tokens."""

import msgspec
import xxhash

from ..checkpoint.reader import Checkpoint
from .config import ModelConfig

SAMPLED_TENSORS = 512
SAMPLE_BYTES = 256


def model_digest(config: ModelConfig, checkpoint: Checkpoint) -> str:
    """Hash the configuration, all tensors' names, dtypes and shapes, and the first bytes of a spread of them.

    Reading all weights would cost minutes on large models; copies of a checkpoint that are cut into other
    shards have the same digest.
    """
    names = sorted(checkpoint)
    digest = xxhash.xxh3_128(msgspec.json.encode(config, order="sorted"))
    for name in names:
        entry = checkpoint.entry(name)
        digest.update(f"{name} {entry.dtype} {entry.shape}\n".encode())
    for name in names[:: max(1, len(names) // SAMPLED_TENSORS)]:
        digest.update(checkpoint.first_bytes(name, SAMPLE_BYTES))
    return digest.hexdigest()
