"""How fast simulated workers are. Every number has a meaning that can be measured on a real worker, and
`baton simulate calibrate` measures most of them.

prefill step = step_base_s + token_s * tokens + pair_s * (token, earlier token) pairs
decode step  = step_base_s + row_s * padded rows + experts_s * share of experts in use
               + context_token_s * tokens of context
transfer     = base_s + bytes / bytes_per_s, one at a time at either end
"""

from bisect import bisect_left
from pathlib import Path
from typing import Annotated

import msgspec
import yaml

from ..routing.memory_config import KV_BYTES_PER_TOKEN

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class ModelError(ValueError):
    """An engine model that cannot be used; the message names the file and the key."""


class PrefillModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One prefill worker."""

    step_base_s: Seconds = 0.010
    token_s: Seconds = 60e-6
    """For each prompt token that is not cached."""
    pair_s: Seconds = 2e-9
    """For each of these tokens and each token before it: attention."""
    budget_tokens: Count = 8192
    """Most tokens in a step; longer prompts take several."""
    kv_tokens: Count = 600_000
    """Size of the KV pool, which is also the prefix cache."""


class DecodeModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One decode worker."""

    step_base_s: Seconds = 0.018
    row_s: Seconds = 80e-6
    """For each sequence in the batch, after padding."""
    experts_s: Seconds = 0.0
    """For reading all experts' weights; a small batch uses, and reads, only some of them."""
    expert_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 8 / 256
    """Share of the experts that one row uses."""
    context_token_s: Seconds = 15e-9
    """For each token of context that the batch attends to."""
    captured_batch_sizes: tuple[Count, ...] = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
    """A batch is padded to the next of these; larger ones are not padded."""
    kv_tokens: Count = 1_000_000
    lockstep: bool = True
    """All decode workers take each step together (wide expert parallelism), as slow as the slowest."""
    prefill_token_s: Seconds = 60e-6
    """A prompt token computed here, by decode itself."""
    prefill_pair_s: Seconds = 2e-9
    prefill_budget_tokens: Count = 512
    """Most prompt tokens that ride along with one decode step."""

    def padded(self, rows: int) -> int:
        """Return the batch size that a step over `rows` sequences is computed at."""
        place = bisect_left(self.captured_batch_sizes, rows)
        return self.captured_batch_sizes[place] if place < len(self.captured_batch_sizes) else rows

    def experts_used(self, rows: int) -> float:
        """Return the expected share of the experts that a step over `rows` sequences uses."""
        return 1.0 - (1.0 - self.expert_share) ** rows


class LinkModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How KV gets from prefill to decode."""

    base_s: Seconds = 0.003
    bytes_per_s: Positive = 25e9
    """Of one worker's network card, either way."""
    kv_bytes_per_token: Positive = KV_BYTES_PER_TOKEN


class EngineModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All workers of a simulated fleet."""

    prefill: PrefillModel = PrefillModel()
    decode: DecodeModel = DecodeModel()
    link: LinkModel = LinkModel()
    block_tokens: Count = 512
    """Grain of the prefix caches; the traces know prompts in blocks of 512 tokens."""
    leg_s: Seconds = 0.004
    """What each leg takes beside the engine: HTTP, tokenising, waking up."""
    token_estimate_error: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1
    """The proxy does not tokenise: its counts are off by up to this share, at random."""
    output_tokens_guess: Count = 256
    """What the proxy takes an answer's length for before it has seen any."""


def load_engine_model(path: Path) -> EngineModel:
    """Read a model file. Raises `ModelError`, which names the file and the path of the bad key."""
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not YAML: {error}") from error
    try:
        return msgspec.convert(tree or {}, EngineModel)
    except msgspec.ValidationError as error:
        raise ModelError(f"{path}: {error}") from error
