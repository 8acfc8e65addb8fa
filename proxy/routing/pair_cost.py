"""The pair with the least estimated time, in seconds.

    cost(P, D) = wait(P) + prefill(P) + transfer(P, D) + wait(D) + step(D)
    cost(D)    = wait(D) + prefill(D) + interference(D) + step(D)

    wait(P)       the prompts it was sent and has not answered, at its own rates
    prefill       the uncached part of the prompt, at the worker's own rates
    transfer      the KV that D lacks, over this link
    wait(D)       until D has room for the KV; in cost(D) also for the prompts it computes itself
    step          what the request adds to the steps of all that decode with it
    interference  what a prompt computed on D adds to the same

and on either side what a new or a silent worker is doubted for. Every term has a scale; 0 switches it off.

Up to `EXACT` workers a leg are all priced; of more, those that are ready first, among all and among
those that hold equally much of the prompt. The cheapest few of
either leg are then paired, each pair over its own link.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import islice
from typing import Annotated

import msgspec

from .fleet import Fleet, Kind, Worker
from .memory import IndexConfig, RoutingMemory
from .policy import Decision
from .pools import EXACT, LegView, PoolViews
from .prefix_index import PrefixMatch
from .prices import DecodePrices, PrefillPrices, Scales
from .rates import RateConfig
from .view import RequestView
from .why import Row, Why

TERMS = ("wait", "prefill", "transfer", "decode_wait", "step", "interference", "doubt", "cost")
LIKELY = 8
"""Of a larger one, so many that are ready first are;"""
LEVELS = 8
"""and the first few among those with the longest match, with the next longest and so on, so often."""
PAIRED = 3
"""So many of the cheapest of either leg are paired with each other."""


class PairCostConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="policy", tag="pair_cost"
):
    """Settings of `pair_cost`."""

    scales: Scales = Scales()
    decode_alone: bool = True
    """Whether decode may compute a prompt itself where that is cheaper. Without a prefill worker it must."""
    alone_tokens: Annotated[int, msgspec.Meta(ge=0)] = 1024
    """At most so many uncached tokens, while others decode in step with it: longer chunks would be felt."""
    slow_start_s: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """A worker that entered the rotation less than this ago costs more, evenly less until then."""
    slow_start_cost_s: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """How much more at first."""
    missed_probe_cost_s: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    """What each probe in a row that went unanswered costs a worker."""
    kv_bytes_per_token: Annotated[float, msgspec.Meta(gt=0)] = 70_272.0
    """Size of one token's KV: 61 layers of 576 two-byte values."""
    index: IndexConfig = IndexConfig()
    rates: RateConfig = RateConfig()


@dataclass(slots=True)
class _Leg:
    """One leg in one decision: the workers that were priced, by their place in the pool."""

    view: LegView
    match: PrefixMatch
    """Which worker holds how much of the prompt."""
    terms: dict[int, tuple[float, ...]] = field(default_factory=dict)
    doubts: dict[int, float] = field(default_factory=dict)
    costs: dict[int, float] = field(default_factory=dict)

    depths: dict[int, int] = field(default_factory=dict)

    def depth(self, place: int) -> int:
        """Return how many chunks of the prompt the worker holds."""
        depth = self.depths.get(place)
        if depth is None:
            depth = self.depths[place] = self.match.depth(self.view.bit_of[place])
        return depth

    def cheapest(self, most: int) -> list[int]:
        return sorted(self.costs, key=self.costs.__getitem__)[:most]


@dataclass(slots=True)
class _Offer:
    """One decision's numbers."""

    request: RequestView
    prefill: _Leg
    decode: _Leg
    decode_prices: DecodePrices
    alone: dict[int, tuple[float, ...]] = field(default_factory=dict)
    """Terms of the decode workers that were priced by themselves."""


class PairCost:
    """Prices workers, pairs the cheapest, and takes the least."""

    def __init__(self, config: PairCostConfig, memory: RoutingMemory) -> None:
        self._config = config
        self._memory = memory
        self._views = PoolViews(memory)

    def decide(self, request: RequestView, fleet: Fleet, now: float) -> Decision | None:
        """Return the cheapest pair, or the decode worker alone where that is cheaper."""
        view = self._views.of(request.model, fleet.pool(request.model))
        match = self._memory.match(request, now)
        decode_prices = DecodePrices(
            self._memory, self._config.scales, view.decode, request, self._config.kv_bytes_per_token
        )
        decode = _Leg(view.decode, match)
        self._price_decode(decode, decode_prices, request.tried_decode, now)
        if not decode.costs:
            return None
        prefill = _Leg(view.prefill, match)
        if not request.decode_only and view.prefill.workers:
            self._price_prefill(prefill, request, now)
        offer = _Offer(request, prefill, decode, decode_prices)
        pair = self._best_pair(offer, fleet)
        alone = self._best_alone(offer, pair is None, now)
        if pair is not None and (alone is None or pair[0] <= offer.alone[alone][-1]):
            return self._decision(offer, pair[1], pair[2])
        assert alone is not None
        return self._decision(offer, None, alone)

    # --- pricing

    def _price_prefill(self, leg: _Leg, request: RequestView, now: float) -> None:
        places = self._shortlist(leg, request.tried_prefill, now)
        prices = PrefillPrices(
            self._memory, self._config.scales, leg.view, places=places, request=request, now=now
        )
        for place in places:
            wait, work, overdue = leg.terms[place] = prices.terms(place, leg.depth(place))
            leg.costs[place] = wait + work + overdue + leg.doubts.get(place, 0.0)

    def _price_decode(self, leg: _Leg, prices: DecodePrices, tried: set[str], now: float) -> None:
        for place in self._shortlist(leg, tried, now):
            wait, step = leg.terms[place] = prices.terms(place)
            usual = prices.usual_transfer_s(leg.depth(place))
            leg.costs[place] = wait + step + usual + leg.doubts.get(place, 0.0)

    def _shortlist(self, leg: _Leg, tried: set[str], now: float) -> Sequence[int]:
        """Return the places worth pricing that may be chosen, and note what they are doubted for."""
        everyone = range(len(leg.view.workers))
        if len(everyone) > EXACT and (found := self._open(leg, self._likely(leg), tried, now)):
            return found
        return self._open(leg, everyone, tried, now) or [
            place for place in everyone if leg.view.workers[place].name not in tried
        ]

    def _likely(self, leg: _Leg) -> Sequence[int]:
        """Return those ready first, of all and of those that hold equally much of the prompt."""
        view = leg.view
        places = view.order.first(LIKELY)
        for holders in islice(leg.match.minorities(view.bits, view.place_of), LEVELS):
            places += nsmallest(PAIRED, holders, lambda place: view.ready[view.row_of[place]])
        return list(dict.fromkeys(places))

    def _open(self, leg: _Leg, places: Sequence[int], tried: set[str], now: float) -> list[int]:
        """Return those that were not tried and are not cooling off."""
        workers, slow_start_s = leg.view.workers, self._config.slow_start_s
        some_new = now < leg.view.newest_since + slow_start_s
        found = []
        for place in places:
            worker = workers[place]
            if worker.cooling_until > now or worker.name in tried:
                continue
            if worker.missed_probes or some_new:
                leg.doubts[place] = self._doubt_s(worker, now)
            found.append(place)
        return found

    def _doubt_s(self, worker: Worker, now: float) -> float:
        config, age_s = self._config, now - worker.since
        doubt = worker.missed_probes * config.missed_probe_cost_s
        if age_s < config.slow_start_s:
            doubt += config.slow_start_cost_s * (1.0 - age_s / config.slow_start_s)
        return doubt

    # --- choosing

    def _best_pair(self, offer: _Offer, fleet: Fleet) -> tuple[float, int, int] | None:
        """Return cost and places of the cheapest pair."""
        if not offer.prefill.costs:
            return None
        found = self._pairs(offer, fleet, offer.prefill.cheapest(PAIRED), offer.decode.cheapest(PAIRED))
        if not found:
            # Hands not shaken where it would be best: look at all that were priced.
            found = self._pairs(offer, fleet, list(offer.prefill.costs), list(offer.decode.costs))
        return min(found, default=None)

    def _pairs(
        self, offer: _Offer, fleet: Fleet, prefills: Sequence[int], decodes: Sequence[int]
    ) -> list[tuple[float, int, int]]:
        givers, takers = offer.prefill.view.workers, offer.decode.view.workers
        found = []
        for d in decodes:
            taker, depth = takers[d], offer.decode.depth(d)
            if offer.request.answers > 1 and taker.kind is Kind.VLLM:
                continue  # It pulls once for each answer, but its peer frees the blocks after the first pull.
            rest = offer.decode.costs[d] - offer.decode_prices.usual_transfer_s(depth)
            for p in prefills:
                giver = givers[p]
                if giver is not taker and fleet.may_pair(giver, taker):
                    transfer = self._transfer_s(offer, giver, taker, depth)
                    found.append((offer.prefill.costs[p] + rest + transfer, p, d))
        return found

    def _transfer_s(self, offer: _Offer, giver: Worker, taker: Worker, depth: int) -> float:
        base_s, byte_s = self._memory.rates.transfer_fit(giver.name, taker.name).coefficients
        return offer.decode_prices.transfer_s(base_s, byte_s, depth)

    def _best_alone(self, offer: _Offer, must: bool, now: float) -> int | None:
        """Return the decode worker that computes the prompt cheapest by itself, if it `must` or may."""
        if not must and not self._config.decode_alone:
            return None
        leg = offer.decode
        places = list(leg.costs)
        if len(leg.view.workers) > EXACT:
            places = list({*leg.cheapest(PAIRED), max(leg.depths, key=leg.depths.__getitem__)})
        prices = PrefillPrices(
            self._memory, self._config.scales, leg.view, places=places, request=offer.request, now=now
        )
        for place in places:
            if not must and self._disturbs(offer, place):
                continue
            wait, work, overdue = prices.terms(place, leg.depth(place))
            decode_wait, step = leg.terms[place]
            doubt = overdue + leg.doubts.get(place, 0.0)
            interference = offer.decode_prices.interference_s(place, work)
            terms = (wait, work, 0.0, decode_wait, step, interference, doubt)
            offer.alone[place] = (*terms, sum(terms))
        return min(offer.alone, key=lambda place: offer.alone[place][-1], default=None)

    def _disturbs(self, offer: _Offer, place: int) -> bool:
        """Whether others would feel it if the worker computed the prompt."""
        missing = offer.request.prompt_tokens - offer.decode.depth(place) * offer.request.key_tokens
        return missing > self._config.alone_tokens and offer.decode_prices.crowd(place) > 0

    # --- explaining

    def _decision(self, offer: _Offer, prefill: int | None, decode: int) -> Decision:
        giver = None if prefill is None else offer.prefill.view.workers[prefill]
        why = Why("s", TERMS, lambda: self._rows(offer, prefill, decode), 1)
        return Decision(offer.decode.view.workers[decode], giver, why)

    def _rows(self, offer: _Offer, prefill: int | None, decode: int) -> list[Row]:
        """Return the choice; then what else was priced: beside either of the chosen, and decode alone."""
        beside = prefill if prefill is not None else next(iter(offer.prefill.cheapest(1)), None)
        rows = [self._row(offer, prefill, decode)]
        rows += [self._row(offer, place, decode) for place in offer.prefill.costs if place != prefill]
        if beside is not None:
            rows += [self._row(offer, beside, place) for place in offer.decode.costs if place != decode]
        rows += [self._row(offer, None, place) for place in offer.alone if (None, place) != (prefill, decode)]
        return rows

    def _row(self, offer: _Offer, prefill: int | None, decode: int) -> Row:
        taker = offer.decode.view.workers[decode]
        if prefill is None:
            return None, taker, offer.alone[decode]
        giver = offer.prefill.view.workers[prefill]
        wait, work, overdue = offer.prefill.terms[prefill]
        decode_wait, step = offer.decode.terms[decode]
        doubt = overdue + offer.prefill.doubts.get(prefill, 0.0) + offer.decode.doubts.get(decode, 0.0)
        transfer = self._transfer_s(offer, giver, taker, offer.decode.depth(decode))
        terms = (wait, work, transfer, decode_wait, step, 0.0, doubt)
        return giver, taker, (*terms, sum(terms))
