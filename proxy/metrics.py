"""The proxy's counters in Prometheus' form, read from the plain state when they are scraped."""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from .counters import SECONDS, Histogram
from .hub import Hub
from .reaper import Reaper
from .routing.fleet import WorkerState
from .routing.ledger import HandoverState


class ProxyCollector(Collector):
    """Reads one proxy."""

    def __init__(self, hub: Hub, reaper: Reaper) -> None:
        self._hub = hub
        self._reaper = reaper

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from self._requests()
        yield from self._admission()
        yield from self._policies()
        yield from self._phases()
        yield from self._handovers()
        yield from self._workers()

    def _requests(self) -> Iterator[Metric]:
        counters, counts = self._hub.counters, self._hub.router.counts
        ended = CounterMetricFamily("baton_proxy_requests", "Requests by how they ended", labels=["outcome"])
        for outcome, count in counts.outcomes.items():
            ended.add_metric([outcome.value], count)
        ended.add_metric(["invalid"], counters.invalid)
        yield ended
        retries = CounterMetricFamily(
            "baton_proxy_retries", "Requests tried on another worker, by the leg that failed", labels=["leg"]
        )
        for leg, count in counts.retries.items():
            retries.add_metric([leg], count)
        yield retries
        yield _counter("baton_proxy_resumed_streams", "Streams continued by another worker", counts.resumed)
        yield _counter("baton_proxy_orphans", "Requests ended for a process that died", counts.orphans)
        yield _gauge("baton_proxy_replay_bytes", "Kept to continue streams", self._hub.replays.kept_bytes)
        legs = CounterMetricFamily("baton_proxy_decode_legs", "Decode legs by the KV's source", labels=["kv"])
        legs.add_metric(["handed_over"], counts.split)
        legs.add_metric(["computed"], counts.decode_alone)
        yield legs
        yield _counter(
            "baton_proxy_stale_resends", "Legs sent again on a new connection", counters.stale_resends
        )
        yield _counter("baton_proxy_relayed_bytes", "Bytes of answers", counters.bytes_relayed)
        yield _counter("baton_proxy_received_bytes", "Bytes of request bodies", counters.bytes_received)
        yield _gauge("baton_proxy_requests_in_flight", "Requests being served", counters.requests_in_flight)

    def _admission(self) -> Iterator[Metric]:
        admission = self._hub.router.admission
        counts = admission.counts
        admitted = CounterMetricFamily(
            "baton_proxy_admitted", "Requests given a decode slot", labels=["queued"]
        )
        admitted.add_metric(["no"], counts.started_at_once)
        admitted.add_metric(["yes"], counts.started_after_wait)
        yield admitted
        refused = CounterMetricFamily("baton_proxy_not_admitted", "Requests refused", labels=["reason"])
        for reason, count in counts.refused.items():
            refused.add_metric([reason.value], count)
        yield refused
        left = "Requests whose client left while they waited"
        yield _counter("baton_proxy_left_queue", left, counts.cancelled)
        beyond = "Decode slots granted where there was no room, after a failure"
        yield _counter("baton_proxy_slots_beyond_capacity", beyond, counts.beyond_capacity)
        waiting = GaugeMetricFamily("baton_proxy_queue_requests", "Requests that wait", labels=["model"])
        tokens = GaugeMetricFamily("baton_proxy_queue_tokens", "Tokens that they need", labels=["model"])
        for model, (requests, needed) in admission.waiting_by_model().items():
            waiting.add_metric([model], requests)
            tokens.add_metric([model], needed)
        held = GaugeMetricFamily("baton_proxy_slot_tokens", "Tokens of decode slots held", labels=["worker"])
        for worker, held_tokens in admission.slots.held_by_worker().items():
            held.add_metric([worker], held_tokens)
        yield from (waiting, tokens, held)
        yield _histogram(
            "baton_proxy_queue_wait_seconds", "From arrival to the decode slot", self._hub.desk.queue_wait_s
        )

    def _policies(self) -> Iterator[Metric]:
        hub = self._hub
        labels = ["model", "version", "shadow"]
        decisions = CounterMetricFamily("baton_proxy_decisions", "By a policy since in force", labels=labels)
        for place, course in hub.courses.in_force():
            names = [place.model or "", course.version, str(place.shadow).lower()]
            decisions.add_metric(names, course.decisions)
        yield decisions
        shadow = CounterMetricFamily(
            "baton_proxy_shadow", "What the shadow policy would have chosen", labels=["choice"]
        )
        counts = hub.courses.shadow_counts
        shadow.add_metric(["same"], counts.same)
        shadow.add_metric(["other_prefill"], counts.other_prefill)
        shadow.add_metric(["other_decode"], counts.other_decode)
        shadow.add_metric(["other_both"], counts.other_both)
        yield shadow
        reloads = hub.policy_watch.counts
        yield _counter("baton_proxy_policy_reloads", "Policy files taken over", reloads.taken)
        yield _counter("baton_proxy_policy_reloads_refused", "Policy files refused", reloads.refused)

    def _phases(self) -> Iterator[Metric]:
        counters = self._hub.counters
        yield _histogram("baton_proxy_prefill_seconds", "Prefill leg, whole", counters.prefill_s)
        yield _histogram(
            "baton_proxy_decode_first_byte_seconds", "Decode leg to its first bytes", counters.first_byte_s
        )
        yield _histogram(
            "baton_proxy_time_to_first_byte_seconds", "Request to first bytes", counters.time_to_first_byte_s
        )
        yield _histogram(
            "baton_proxy_request_seconds", "Request to the end of its answer", counters.request_s
        )

    def _handovers(self) -> Iterator[Metric]:
        ledger = self._hub.router.ledger
        entries = GaugeMetricFamily("baton_proxy_handovers", "KV hand-overs under way", labels=["state"])
        counts = ledger.counts()
        for state in HandoverState:
            if state is not HandoverState.FREED:
                entries.add_metric([state.value], counts[state])
        yield entries
        held = GaugeMetricFamily(
            "baton_proxy_handover_tokens", "Prompt tokens whose KV a prefill worker holds", labels=["worker"]
        )
        outstanding = ledger.outstanding_tokens()
        for worker in self._hub.router.fleet.workers.values():
            if worker.prefills:
                held.add_metric([worker.name], outstanding[worker.name])
        yield held
        yield _counter("baton_proxy_handovers_ended", "KV hand-overs that ended", ledger.freed)
        yield _counter("baton_proxy_handovers_released", "Of these, by explicit release", ledger.released)
        yield _gauge(
            "baton_proxy_aborts_pending", "Aborts that no worker has confirmed yet", len(self._reaper)
        )
        yield _counter("baton_proxy_aborts_unconfirmed", "Aborts given up", self._reaper.given_up)

    def _workers(self) -> Iterator[Metric]:
        labels = ["worker", "role"]
        state = GaugeMetricFamily("baton_proxy_worker_state", "1 for its state", labels=[*labels, "state"])
        tokens = GaugeMetricFamily("baton_proxy_worker_tokens", "Tokens in flight", labels=[*labels, "leg"])
        requests = GaugeMetricFamily("baton_proxy_worker_requests", "Legs in flight", labels=[*labels, "leg"])
        for worker in self._hub.router.fleet.workers.values():
            names = [worker.name, worker.role.value]
            for each in WorkerState:
                state.add_metric([*names, each.value], each is worker.state)
            tokens.add_metric([*names, "prefill"], worker.prefill_tokens)
            tokens.add_metric([*names, "decode"], worker.decode_tokens)
            requests.add_metric([*names, "prefill"], worker.prefill_requests)
            requests.add_metric([*names, "decode"], worker.decode_requests)
        yield from (state, tokens, requests)


def registry_of(hub: Hub, reaper: Reaper) -> CollectorRegistry:
    """Return a registry that reads this proxy."""
    registry = CollectorRegistry()
    registry.register(ProxyCollector(hub, reaper))
    return registry


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    bounds = [*map(str, SECONDS), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=histogram.total_s)
