"""What a newcomer and rank 0 say to each other until the newcomer is in, a JSON line each.

    newcomer: `Knock`                        rank 0: `Invitation`, once the ranks know of it, or `Refusal`
    newcomer: `Loaded`                       rank 0: `Enter`, once all ranks are ready for it
    both meet the others by the new link     rank 0: `Welcome`, once all have

Whoever hangs up calls it off. `Refusal` may come instead of any line of rank 0.
"""

import msgspec

from ..config import RanksConfig


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What all ranks of a group must have alike, and each knows by itself."""

    model: str
    """Digest of configuration and checkpoint."""
    role: str
    dtype: str | None
    keep_fp8: bool | None
    max_num_seqs: int
    bucket_sizes: list[int] | None


class Knock(msgspec.Struct, frozen=True, kw_only=True, tag="knock"):
    """I would like to join."""

    terms: Terms


class Invitation(msgspec.Struct, frozen=True, kw_only=True, tag="invitation"):
    """Meet us there under this number, then load what that rank owns."""

    ranks: RanksConfig


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag="loaded"):
    """I could take part in steps now."""


class Enter(msgspec.Struct, frozen=True, kw_only=True, tag="enter"):
    """Send the first message round the new link with us now."""


class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome"):
    """You are in."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag="refusal"):
    """You are not, and will not be."""

    reason: str


FromNewcomer = Knock | Loaded
ToNewcomer = Invitation | Enter | Welcome | Refusal
