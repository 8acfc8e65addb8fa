"""What the rates start from, and how fast they follow what is seen."""

from typing import Annotated

import msgspec

Seconds = Annotated[float, msgspec.Meta(gt=0)]


class PrefillPrior(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What prefill is taken to cost before anything was seen."""

    base_s: Seconds = 0.010
    per_token_s: Seconds = 60e-6
    per_pair_s: Seconds = 1e-9
    """For each computed token and each token before it: attention makes long prompts dearer than linear."""


class TransferPrior(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a link is taken to cost before anything was seen."""

    base_s: Seconds = 0.002
    per_byte_s: Seconds = 1e-10


class DecodeStepPrior(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a decode step is taken to cost before anything was seen."""

    base_s: Seconds = 0.020
    per_row_s: Seconds = 100e-6
    per_context_token_s: Seconds = 5e-9


class RateConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Priors of the rates, and how fast they are replaced by what is seen."""

    prefill: PrefillPrior = PrefillPrior()
    transfer: TransferPrior = TransferPrior()
    decode_step: DecodeStepPrior = DecodeStepPrior()
    memory_observations: Annotated[float, msgspec.Meta(ge=2)] = 100.0
    """Observations a fit rests on; older ones fade."""
    prior_observations: Annotated[float, msgspec.Meta(gt=0)] = 4.0
    """How many observations the prior is worth at first."""
    most_links: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """Links with a fit of their own; the ones seen least recently fall back to their fleet's."""
