"""What one worker of a leg would cost, term by term: the formulas of `pair_cost`."""

from collections.abc import Sequence
from typing import Annotated

import msgspec

from .memory import RoutingMemory
from .pools import LegView
from .view import RequestView

Scale = Annotated[float, msgspec.Meta(ge=0)]


class Scales(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Factors of the terms; 0 switches a term off."""

    wait: Scale = 1.0
    prefill: Scale = 1.0
    backlog: Scale = 2.0
    """Added to `prefill` for each prompt that waits at a worker, in the mean of those priced: while there are
    queues, a second of work is a second for everyone behind it."""
    transfer: Scale = 1.0
    decode_wait: Scale = 1.0
    step: Scale = 0.3
    """Of the seconds that the request and all who decode with it lose in their steps."""
    interference: Scale = 3.0
    """Of the seconds that all who decode with it lose to a prompt computed beside them."""
    overdue: Scale = 1.0
    """Of the seconds by which a worker's next answer is late."""


class PrefillPrices:
    """The prefill workers of one decision; or the decode workers, as if they computed the prompt."""

    def __init__(
        self,
        memory: RoutingMemory,
        scales: Scales,
        leg: LegView,
        *,
        places: Sequence[int],
        request: RequestView,
        now: float,
    ) -> None:
        """Price for `request` the workers at `places`."""
        self._columns = memory.load.prefill
        self._scales = scales
        self._leg = leg
        self._now = now
        self._prompt = float(request.prompt_tokens)
        self._key_tokens = request.key_tokens
        waiting = sum(self._columns.prompts[leg.row_of[place]] for place in places)
        self._work_scale = scales.prefill + scales.backlog * waiting / max(len(places), 1)

    def terms(self, place: int, depth: int) -> tuple[float, float, float]:
        """Return wait, prefill and doubt in scaled seconds, of a worker that holds `depth` chunks."""
        columns, row = self._columns, self._leg.row_of[place]
        cached = min(depth * self._key_tokens * columns.trust[row], self._prompt - 1.0)
        new = self._prompt - cached
        ahead, behind = columns.clear_at[row] - self._now, columns.behind_first_s[row]
        # Of the new tokens each attends to those cached and, in the mean, to half of the new ones.
        each_s = columns.token_s[row] + columns.pair_s[row] * (cached + new / 2)
        prefill = self._work_scale * (columns.base_s[row] + new * each_s)
        if ahead >= behind or not columns.prompts[row]:
            return self._scales.wait * max(ahead, behind), prefill, 0.0
        return self._scales.wait * behind, prefill, self._scales.overdue * (behind - ahead)


class DecodePrices:
    """The decode workers of one decision."""

    def __init__(
        self,
        memory: RoutingMemory,
        scales: Scales,
        leg: LegView,
        request: RequestView,
        kv_bytes_per_token: float,
    ) -> None:
        self._columns = memory.load.decode
        self._scales = scales
        self._leg = leg
        self._output = memory.expected_output_tokens(request)
        self._context = request.prompt_tokens + self._output / 2
        self._need = request.prompt_tokens + self._output
        self._prompt_bytes = request.prompt_tokens * kv_bytes_per_token
        self._key_bytes = request.key_tokens * kv_bytes_per_token
        self._link_base_s, self._link_byte_s = memory.rates.fleet_transfer_fit.coefficients
        self._teams: dict[int, tuple[float, int]] = {}

    def terms(self, place: int) -> tuple[float, float]:
        """Return wait and step in scaled seconds."""
        columns, row = self._columns, self._leg.row_of[place]
        after = columns.step_with_one_more_s[row] + columns.context_token_s[row] * self._context
        pace, crowd = self._team(place)
        lost = max(after, pace) + after + crowd * max(after - pace, 0.0)
        over = max(columns.reserved_tokens[row] + self._need - columns.capacity_tokens[row], 0.0)
        wait = self._output * after * over / (columns.reserved_tokens[row] + 1.0)
        return self._scales.decode_wait * wait, self._scales.step * self._output * lost

    def transfer_s(self, base_s: float, byte_s: float, depth: int) -> float:
        """Return the scaled seconds that the KV takes which a worker with `depth` chunks lacks."""
        missing = max(self._prompt_bytes - depth * self._key_bytes, 0.0)
        return self._scales.transfer * (base_s + byte_s * missing)

    def usual_transfer_s(self, depth: int) -> float:
        """Return the same over a link like the fleet's."""
        return self.transfer_s(self._link_base_s, self._link_byte_s, depth)

    def crowd(self, place: int) -> int:
        """Return how many sequences decode in step with one worker's, its own included."""
        return self._team(place)[1]

    def interference_s(self, place: int, prefill_s: float) -> float:
        """Return the scaled seconds that all lose while one worker computes a prompt for `prefill_s`."""
        return self._scales.interference * prefill_s * self.crowd(place)

    def _team(self, place: int) -> tuple[float, int]:
        """Return the slowest step of those in lockstep with the worker, and how many sequences they have."""
        group = self._leg.group_of[place]
        members = self._leg.groups[group]
        if members is None:
            row = self._leg.row_of[place]
            return self._columns.step_s[row], self._columns.rows[row]
        team = self._teams.get(group)
        if team is None:
            pace, crowd = max(members(self._columns.step_s)), sum(members(self._columns.rows))
            team = self._teams[group] = (pace, crowd)
        return team
