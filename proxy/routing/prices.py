"""What the workers of a leg would cost, term by term: the formulas of `pair_cost`.

Each function prices all workers of a decision in one loop: most of what a decision costs is here.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from .load import Team
from .pair_cost_config import Scales
from .pools import LegView
from .prefix_index import PrefixMatch

NONE_HELD: Final[dict[int, int]] = {}
"""What is held of a prompt that nobody has a part of; never added to."""


class Need:
    """What one request asks of a worker."""

    __slots__ = (
        "key_bytes", "key_tokens", "output_tokens", "prompt_bytes", "prompt_tokens", "usual_base_s",
        "usual_byte_s",
    )  # fmt: skip

    def __init__(
        self,
        prompt_tokens: float,
        output_tokens: float,
        key_tokens: float,
        kv_bytes_per_token: float,
        usual_transfer: tuple[float, ...],
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        """As expected."""
        self.key_tokens = key_tokens
        """Of the prompt, in one chunk."""
        self.prompt_bytes = prompt_tokens * kv_bytes_per_token
        """KV of the prompt."""
        self.key_bytes = key_tokens * kv_bytes_per_token
        """KV of one chunk."""
        self.usual_base_s, self.usual_byte_s = usual_transfer
        """Of a transfer over a link like the fleet's."""

    def transfer_s(self, base_s: float, byte_s: float, depth: int) -> float:
        """Return the seconds that the KV takes which a worker with `depth` chunks lacks."""
        return base_s + byte_s * max(self.prompt_bytes - depth * self.key_bytes, 0.0)

    def usual_transfer_s(self, scales: Scales, depth: int) -> float:
        """Return the same over a link like the fleet's, scaled."""
        return scales.transfer * self.transfer_s(self.usual_base_s, self.usual_byte_s, depth)


class Leg:
    """One leg in one decision: the workers that were priced, by their place in the pool."""

    __slots__ = ("depths", "doubts", "leaving_s", "match", "view")

    def __init__(self, view: LegView, match: PrefixMatch) -> None:
        self.view = view
        self.match = match
        self.doubts: dict[int, float] = {}
        """Of those that are doubted, in seconds."""
        self.leaving_s = 0.0
        """What it costs not to be served where the request's session was, if that is possible."""
        self.depths = NONE_HELD
        """Of those that hold anything, how many chunks of the prompt."""

    def look_up(self, places: Sequence[int]) -> None:
        """Find out what the workers at `places` hold."""
        if self.match.longest:
            depth, bit_of = self.match.depth, self.view.bit_of
            self.depths = {place: found for place in places if (found := depth(bit_of[place]))}


PrefillTerms = tuple[float, float, float, float]
"""Wait, prefill, overdue in scaled seconds; and their sum with what the worker is doubted for."""
DecodeTerms = tuple[float, float, float, float]
"""Wait and step in scaled seconds; the same and doubt without the transfer, and with a usual one."""


def price_prefill(
    scales: Scales, need: Need, leg: Leg, places: Iterable[int], *, scale: float, now: float
) -> dict[int, PrefillTerms]:
    """Return the terms of the workers at `places`; `scale` is what a second of work counts for."""
    queues, depths, doubts = leg.view.queues, leg.depths, leg.doubts
    wait_scale, prompt, key_tokens = scales.wait, need.prompt_tokens, need.key_tokens
    found = {}
    for place in places:
        row = queues[place]
        cached = overdue = 0.0
        if depths and (depth := depths.get(place)):
            cached = min(depth * key_tokens * row.trust, prompt - 1.0)
        new = prompt - cached
        # Of the new tokens each attends to those cached and, in the mean, to half of the new ones.
        base_s, token_s, pair_s = row.fit.coefficients
        work = scale * (base_s + new * (token_s + pair_s * (cached + new / 2)))
        wait, behind = row.clear_at - now, row.behind_first_s
        if wait < behind:
            if row.prompts:
                overdue = scales.overdue * (behind - wait)
            wait = behind
        wait *= wait_scale
        cost = wait + work + overdue
        if doubts:
            cost += doubts.get(place, 0.0)
        found[place] = wait, work, overdue, cost
    return found


def work_scale(scales: Scales, leg: Leg, places: Sequence[int]) -> float:
    """Return what a second of work counts for among the workers at `places`."""
    queues, waiting = leg.view.queues, 0
    for place in places:
        waiting += queues[place].prompts
    return scales.prefill + scales.backlog * waiting / max(len(places), 1)


def price_decode(scales: Scales, need: Need, leg: Leg, places: Iterable[int]) -> dict[int, DecodeTerms]:
    """Return the terms of the workers at `places`."""
    steps, depths, doubts = leg.view.steps, leg.depths, leg.doubts
    output, context = need.output_tokens, need.prompt_tokens + need.output_tokens / 2
    usual = from_nothing = need.usual_transfer_s(scales, 0)
    paces: dict[Team, tuple[float, int]] = {}
    found = {}
    for place in places:
        row = steps[place]
        after = row.step_with_one_more_s + row.context_token_s * context
        if len(row.team.members) == 1:
            pace, crowd = row.step_s, row.sequences
        else:
            pace, crowd = paces.get(row.team) or paces.setdefault(row.team, row.team.pace())
        # The request's own steps, and what it adds to everybody's.
        lost = (2 * after + crowd * (after - pace)) if after > pace else pace + after
        step, wait = scales.step * output * lost, 0.0
        over = row.reserved_tokens + need.prompt_tokens + output - row.capacity_tokens
        if over > 0.0:
            wait = scales.decode_wait * (output * after * over / (row.reserved_tokens + 1.0))
        if depths:
            depth = depths.get(place, 0)
            usual = need.usual_transfer_s(scales, depth) if depth else from_nothing
        here = wait + step + (doubts.get(place, 0.0) if doubts else 0.0)
        found[place] = wait, step, here, here + usual
    return found
