"""What travels between the stages of a mixture-of-experts layer.

    prepare   tokens and their routing       -> rows grouped by expert
    experts   rows grouped by expert         -> the experts' outputs, row for row
    finalize  outputs and routing            -> one sum a token

The contiguous format below suits prefill and one rank: all rows in one tensor, expert after expert. Router
weights are applied by `finalize` and by no other stage.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class ContiguousRows:
    """Token rows grouped by expert; only experts with rows appear."""

    rows: Tensor
    """[n, hidden]"""
    experts: list[int]
    """Local index of each expert that has rows, ascending unless a single token was routed."""
    counts: list[int]
    """Rows of each of those experts; their sum is n."""
    positions: Tensor | None
    """[tokens, top_k] int64, the row of each routed pair, n for pairs without one. None: in order."""
