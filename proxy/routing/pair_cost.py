"""The pair with the least estimated time, in seconds.

    cost(P, D) = wait(P) + prefill(P) + transfer(P, D) + wait(D) + step(D)
    cost(D)    = wait(D) + prefill(D) + interference(D) + step(D)

    wait(P)       the prompts it was sent and has not answered, at its own rates
    prefill       the uncached part of the prompt, at the worker's own rates
    transfer      the KV that D lacks, over this link
    wait(D)       until D has room for the KV; in cost(D) also for the prompts it computes itself
    step          what the request adds to the steps of all that decode with it
    interference  prefill(D), for each sequence that decodes in step with D

and on either side what a new or a silent worker is doubted for, or one that did not serve the request's
session last. Every term has a scale; 0 switches it off.

Up to `EXACT` workers a leg are all priced; of more, those that are ready first, among all and among
those that hold equally much of the prompt. The cheapest few of
either leg are then paired, each pair over its own link.
"""

from collections.abc import Sequence
from itertools import islice
from math import inf
from typing import Final

from .fleet import Fleet, Worker
from .memory import RoutingMemory
from .observer import Leg as Side
from .pair_cost_config import PairCostConfig
from .policy import Decision, may_split
from .pools import EXACT, PoolView, PoolViews
from .prefix_index import PrefixMatch
from .prices import Leg, Need, price_decode, price_prefill, work_scale
from .view import RequestView
from .why import Row, Why

TERMS: Final = ("wait", "prefill", "transfer", "decode_wait", "step", "interference", "doubt", "cost")
LIKELY: Final = 8
"""Of a larger one, so many that are ready first are;"""
LEVELS: Final = 8
"""and the first few among those with the longest match, with the next longest and so on, so often."""
GONE: Final = 0.05
"""Share of what the index says a decode worker holds that it is taken to lack, where it would have to compute
it: one long prompt that was evicted is felt by all who decode for seconds."""
PAIRED: Final = 3
"""So many of the cheapest of either leg are paired with each other."""
NOT_PRICED: Final[dict[int, tuple[float, float, float, float]]] = {}
"""Terms of no worker; never added to."""


class _Offer:
    """One decision's numbers."""

    __slots__ = (
        "alone", "decode", "decode_terms", "need", "prefill", "prefill_terms", "request", "transfers", "view",
    )  # fmt: skip

    def __init__(self, request: RequestView, need: Need, view: PoolView, match: PrefixMatch) -> None:
        self.request = request
        self.need = need
        self.view = view
        self.prefill = Leg(view.prefill, match)
        self.decode = Leg(view.decode, match)
        self.prefill_terms = NOT_PRICED
        self.decode_terms = NOT_PRICED
        self.alone: dict[int, tuple[float, ...]] = {}
        """Terms of the decode workers that were priced by themselves."""
        self.transfers: dict[int, dict[int, float]] = {}
        """Of the pairs that were priced over their own link, in scaled seconds: by decode, then prefill."""


def _cheapest(terms: dict[int, tuple[float, float, float, float]], most: int) -> list[int]:
    """Return the places with the least of what comes last in their terms."""
    if len(terms) <= most:
        return list(terms)
    return sorted(terms, key=lambda place: terms[place][-1])[:most]


class PairCost:
    """Prices workers, pairs the cheapest, and takes the least."""

    def __init__(self, config: PairCostConfig, memory: RoutingMemory) -> None:
        self._config = config
        self._memory = memory
        self._views = PoolViews(memory)

    def decide(self, request: RequestView, fleet: Fleet, now: float) -> Decision | None:
        """Return the cheapest pair, or the decode worker alone where that is cheaper."""
        scales = self._config.scales
        view = self._views.of(request.model, fleet.pool(request.model))
        match = self._memory.match(request, now)
        offer = _Offer(request, self._need(request), view, match)
        leg = offer.decode
        places = self._shortlist(leg, request, Side.DECODE, now)
        if not places:
            return None
        offer.decode_terms = price_decode(scales, offer.need, leg, places)
        leg = offer.prefill
        if leg.view.workers and self._any_split(offer):
            places = self._shortlist(leg, request, Side.PREFILL, now)
            scale = work_scale(scales, leg, places)
            offer.prefill_terms = price_prefill(scales, offer.need, leg, places, scale=scale, now=now)
        pair = self._best_pair(offer, fleet)
        alone = self._best_alone(offer, pair is None, now)
        if pair is not None and (alone is None or pair[0] <= offer.alone[alone][-1]):
            return self._decision(offer, pair[1], pair[2])
        return None if alone is None else self._decision(offer, None, alone)

    def _need(self, request: RequestView) -> Need:
        memory = self._memory
        return Need(
            float(request.prompt_tokens),
            memory.expected_output_tokens(request),
            request.key_tokens,
            self._config.kv_bytes_per_token,
            memory.rates.fleet_transfer_fit.coefficients,
        )

    @staticmethod
    def _any_split(offer: _Offer) -> bool:
        return not offer.request.decode_only or offer.decode.view.needs_partners

    # --- which workers

    def _shortlist(self, leg: Leg, request: RequestView, side: Side, now: float) -> Sequence[int]:
        """Return the places worth pricing that may be chosen; note what they are doubted for and hold."""
        tried = request.tried_prefill if side is Side.PREFILL else request.tried_decode
        places = self._fit(leg, tried, now)
        stay = self._stay(leg, request, side, now) if request.session else None
        if stay is not None and (stay in places or self._open(leg, [stay], tried, now)):
            leg.leaving_s = self._config.session_cost_s
            for place in places:
                if place != stay:
                    leg.doubts[place] = leg.doubts.get(place, 0.0) + leg.leaving_s
            places = places if stay in places else [*places, stay]
        leg.look_up(places)
        return places

    def _stay(self, leg: Leg, request: RequestView, side: Side, now: float) -> int | None:
        """Return the place of the worker that served the request's session last."""
        last = self._memory.sessions.last(request, side, now)
        return None if last is None else leg.view.place(self._memory.index.bit(last), last)

    def _fit(self, leg: Leg, tried: set[str], now: float) -> Sequence[int]:
        """Return the places worth pricing by what their workers have and have to do."""
        everyone = range(len(leg.view.workers))
        found: Sequence[int] = ()
        if len(everyone) > EXACT:
            found = self._open(leg, self._likely(leg), tried, now)
        return found or self._open(leg, everyone, tried, now) or [
            place for place in everyone if leg.view.workers[place].name not in tried
        ]  # fmt: skip

    def _likely(self, leg: Leg) -> Sequence[int]:
        """Return those ready first, of all and of those that hold equally much of the prompt."""
        view = leg.view
        assert view.order is not None
        places = view.order.first(LIKELY)
        for holders in islice(leg.match.minorities(view.bits, view.place_of), LEVELS):
            places += view.order.least(PAIRED, holders)
        return list(dict.fromkeys(places))

    def _open(self, leg: Leg, places: Sequence[int], tried: set[str], now: float) -> Sequence[int]:
        """Return those that were not tried and are not cooling off."""
        workers = leg.view.workers
        some_new = now < leg.view.newest_since + self._config.slow_start_s
        oldest_since = min(worker.since for worker in workers) if some_new and workers else -inf
        found = []
        for place in places:
            worker = workers[place]
            if worker.cooling_until > now or worker.name in tried:
                continue
            if worker.missed_probes or some_new:
                leg.doubts[place] = self._doubt_s(worker, oldest_since, now)
            found.append(place)
        return found

    def _doubt_s(self, worker: Worker, oldest_since: float, now: float) -> float:
        # A leg that is new as a whole is doubted nowhere: all of it starts alike.
        newer = self._newness(worker.since, now) - self._newness(oldest_since, now)
        return (
            worker.missed_probes * self._config.missed_probe_cost_s + newer * self._config.slow_start_cost_s
        )

    def _newness(self, since: float, now: float) -> float:
        """Return 1 for a worker that has just entered, evenly less later, 0 from `slow_start_s` on."""
        slow_start_s = self._config.slow_start_s
        return max(1.0 - (now - since) / slow_start_s, 0.0) if slow_start_s else 0.0

    # --- choosing

    def _best_pair(self, offer: _Offer, fleet: Fleet) -> tuple[float, int, int] | None:
        """Return cost and places of the cheapest pair."""
        if not offer.prefill_terms:
            return None
        best = self._best_of(
            offer, fleet, _cheapest(offer.prefill_terms, PAIRED), _cheapest(offer.decode_terms, PAIRED)
        )
        if best is None:
            # Hands not shaken where it would be best: look at all that were priced.
            best = self._best_of(offer, fleet, list(offer.prefill_terms), list(offer.decode_terms))
        return best

    def _best_of(
        self, offer: _Offer, fleet: Fleet, prefills: list[int], decodes: list[int]
    ) -> tuple[float, int, int] | None:
        """Return the cheapest of these pairs; of equals the one whose workers come first in the pool."""
        givers, takers = offer.prefill.view.workers, offer.decode.view.workers
        links, usual = self._memory.rates.links
        scale, need = self._config.scales.transfer, offer.need
        best, best_p, best_d = inf, -1, -1
        for d in decodes:
            taker = takers[d]
            if not may_split(offer.request, taker):
                continue
            here, partners = offer.decode_terms[d][2], offer.view.partners(fleet, d)
            depth = offer.decode.depths.get(d, 0)
            transfers = offer.transfers[d] = {}
            for p in prefills:
                if p not in partners:
                    continue
                base_s, byte_s = links.get((givers[p].name, taker.name), usual).coefficients
                transfers[p] = transfer = scale * need.transfer_s(base_s, byte_s, depth)
                cost = offer.prefill_terms[p][3] + here + transfer
                if cost < best or (cost == best and (p < best_p or (p == best_p and d < best_d))):
                    best, best_p, best_d = cost, p, d
        return None if best_p < 0 else (best, best_p, best_d)

    def _best_alone(self, offer: _Offer, must: bool, now: float) -> int | None:
        """Return the decode worker that computes the prompt cheapest by itself, if it `must` or may."""
        if not must and not self._config.decode_alone:
            return None
        scales, leg = self._config.scales, offer.decode
        places = list(offer.decode_terms)
        if len(leg.view.workers) > EXACT:
            deepest = max(places, key=lambda place: leg.depths.get(place, 0))
            places = list({*_cheapest(offer.decode_terms, PAIRED), deepest})
        scale = work_scale(scales, leg, places)
        if leg.view.needs_partners:
            places = [place for place in places if not leg.view.workers[place].needs_partner]
        if not must:
            places = [place for place in places if not self._takes_long(offer, place)]
        priced = price_prefill(scales, offer.need, leg, places, scale=scale, now=now)
        for place, (wait, work, overdue, _) in priced.items():
            decode_wait, step, _, _ = offer.decode_terms[place]
            doubt = overdue + leg.doubts.get(place, 0.0) + offer.prefill.leaving_s
            # All who decode with it lose the time that the prompt takes; their time counts for as much.
            interference = scales.interference * work * leg.view.steps[place].team.sequences
            cost = wait + work + decode_wait + step + interference + doubt
            offer.alone[place] = (wait, work, 0.0, decode_wait, step, interference, doubt, cost)
        if len(offer.alone) < 2:
            return next(iter(offer.alone), None)
        return min(offer.alone, key=lambda place: offer.alone[place][-1])

    def _takes_long(self, offer: _Offer, place: int) -> bool:
        """Whether others may come to decode there before the worker has computed the prompt."""
        held = offer.decode.depths.get(place, 0) * offer.need.key_tokens
        missing = offer.need.prompt_tokens - (1.0 - GONE) * held
        return missing > self._config.alone_tokens

    # --- explaining

    def _decision(self, offer: _Offer, prefill: int | None, decode: int) -> Decision:
        giver = None if prefill is None else offer.prefill.view.workers[prefill]
        why = Why("s", TERMS, lambda: self._rows(offer, prefill, decode), 1)
        return Decision(offer.decode.view.workers[decode], giver, why)

    def _rows(self, offer: _Offer, prefill: int | None, decode: int) -> list[Row]:
        """Return the choice; then what else was priced: beside either of the chosen, and decode alone."""
        beside = prefill if prefill is not None else next(iter(_cheapest(offer.prefill_terms, 1)), None)
        rows = [self._row(offer, prefill, decode)]
        rows += [self._row(offer, place, decode) for place in offer.prefill_terms if place != prefill]
        if beside is not None:
            rows += [self._row(offer, beside, place) for place in offer.decode_terms if place != decode]
        rows += [self._row(offer, None, place) for place in offer.alone if (None, place) != (prefill, decode)]
        return rows

    def _row(self, offer: _Offer, prefill: int | None, decode: int) -> Row:
        taker = offer.decode.view.workers[decode]
        if prefill is None:
            return None, taker, offer.alone[decode]
        giver = offer.prefill.view.workers[prefill]
        wait, work, overdue, _ = offer.prefill_terms[prefill]
        decode_wait, step, _, _ = offer.decode_terms[decode]
        doubt = overdue + offer.prefill.doubts.get(prefill, 0.0) + offer.decode.doubts.get(decode, 0.0)
        transfer = offer.transfers.get(decode, {}).get(prefill)
        if transfer is None:  # Not paired: each was compared as if over a link like the fleet's.
            depth = offer.decode.depths.get(decode, 0)
            transfer = offer.need.usual_transfer_s(self._config.scales, depth)
        terms = (wait, work, transfer, decode_wait, step, 0.0, doubt)
        return giver, taker, (*terms, sum(terms))
