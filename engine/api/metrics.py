"""Prometheus metrics of one worker: the `vllm:` names that routers scrape, and `baton_` ones of our own.

Counters and gauges of the engine are taken over from its last `EngineStats`; times are observed here.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .engine_client import EngineClient
from .engine_metrics import engine_metrics
from .progress import PromptProgress

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5, 10)
BYTES = tuple(float(1 << power) for power in range(12, 34, 2))
"""4 KiB to 4 GiB."""


class EngineStatsCollector(Collector):
    """Shows the engine's last statistics at every scrape."""

    def __init__(self, model_name: str, engine: EngineClient) -> None:
        self._model_name = model_name
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, none before the engine has reported."""
        if self._engine.stats is not None:
            yield from engine_metrics(self._model_name, self._engine.stats)
        ready = self._engine.ready
        if ready is not None:
            labels = {"model_name": self._model_name, "block_size": str(ready.block_tokens)}
            labels["num_gpu_blocks"] = str(ready.num_blocks)
            info = GaugeMetricFamily("vllm:cache_config_info", "The KV pool.", labels=list(labels))
            info.add_metric(list(labels.values()), 1)
            yield info


class Metrics:
    """The registry of one worker and what is observed per request."""

    def __init__(self, model_name: str, engine: EngineClient) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(EngineStatsCollector(model_name, engine))
        self._model_name = model_name
        self._ttft = self._histogram("vllm:time_to_first_token_seconds", "Arrival to first token.")
        self._itl = self._histogram(
            "vllm:inter_token_latency_seconds", "Between tokens of a request.", TOKEN_SECONDS
        )
        self._e2e = self._histogram("vllm:e2e_request_latency_seconds", "Arrival to last token.")
        self._queue = self._histogram("vllm:request_queue_time_seconds", "Arrival to first work.")
        self._prefill = self._histogram("vllm:request_prefill_time_seconds", "Computing the prompt here.")
        self._decode = self._histogram("vllm:request_decode_time_seconds", "First token to last.")
        self._transfer = self._histogram("vllm:nixl_xfer_time_seconds", "Start of a pull to verified blocks.")
        self._pulled = self._histogram("vllm:nixl_bytes_transferred", "KV bytes of a pull.", BYTES)
        self._success = self._counter("vllm:request_success", "Choices served.", ["finished_reason"])
        self._failed = self._counter("baton_requests_failed", "Requests failed by the engine.", ["kind"])
        self._http = self._counter("baton_http_requests", "HTTP requests answered.", ["path", "status"])
        self._recomputed = self._counter(
            "baton_handovers_recomputed", "Hand-overs whose KV could not be used; the prompt was recomputed."
        ).labels(model_name)

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def count_http(self, path: str, status: int) -> None:
        """Count one answered HTTP request; `path` is a route's pattern, never a client's text."""
        self._http.labels(self._model_name, path, str(status)).inc()

    def count_failure(self, kind: str) -> None:
        """Count one request that the engine failed."""
        self._failed.labels(self._model_name, kind).inc()

    def observe_tokens(self, progress: PromptProgress, before: float | None, now: float) -> None:
        """Observe tokens that came at `now`, after earlier ones at `before` (None: the first)."""
        if before is None:
            self._ttft.observe(now - progress.arrived_at)
        elif now > before:
            self._itl.observe(now - before)

    def observe_served(self, progresses: list[PromptProgress]) -> None:
        """Observe the times of requests that were served to their end."""
        for progress in progresses:
            for choice in progress.choices:
                self._success.labels(self._model_name, choice.finish_reason).inc()
            if progress.first_token_at is not None and progress.last_token_at is not None:
                self._e2e.observe(progress.last_token_at - progress.arrived_at)
                self._decode.observe(progress.last_token_at - progress.first_token_at)
            self._observe_phases(progress)

    def _observe_phases(self, progress: PromptProgress) -> None:
        first = progress.first
        if first is None:
            return
        if first.phases.queue_s is not None:
            self._queue.observe(first.phases.queue_s)
        if first.phases.prefill_s is not None:
            self._prefill.observe(first.phases.prefill_s)
        if first.phases.transfer_s is not None:
            self._transfer.observe(first.phases.transfer_s)
            self._pulled.observe(first.kv_bytes)
        if first.recomputed:
            self._recomputed.inc()

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
        histogram = Histogram(name, text, ["model_name"], buckets=buckets, registry=self._registry)
        return histogram.labels(self._model_name)

    def _counter(self, name: str, text: str, labels: list[str] | None = None) -> Counter:
        return Counter(name, text, ["model_name", *(labels or [])], registry=self._registry)
