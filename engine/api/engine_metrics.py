"""The engine's statistics as Prometheus metrics. No I/O; `metrics` calls it at every scrape."""

from collections.abc import Iterator, Mapping

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from ..messages import EngineStats


def engine_metrics(model_name: str, stats: EngineStats) -> Iterator[Metric]:
    """Yield every metric that comes from the engine."""
    yield from _vllm_gauges(model_name, stats)
    yield from _vllm_counters(model_name, stats)
    if stats.accepted_tokens:
        yield from _draft_metrics(model_name, stats)
    yield from _baton_metrics(model_name, stats)


def _vllm_gauges(model: str, stats: EngineStats) -> Iterator[Metric]:
    waiting = stats.waiting + stats.waiting_for_kv
    reasons = {"capacity": stats.waiting, "deferred": stats.waiting_for_kv}
    yield _gauge("vllm:num_requests_running", "Requests in the batch.", model, stats.running)
    yield _gauge("vllm:num_requests_waiting", "Requests waiting.", model, waiting)
    yield _gauges("vllm:num_requests_waiting_by_reason", "Requests waiting.", model, "reason", reasons)
    yield _gauge("vllm:kv_cache_usage_perc", "Share of the KV pool in use, 0 to 1.", model, stats.kv_usage)


def _vllm_counters(model: str, stats: EngineStats) -> Iterator[Metric]:
    sources = {
        "local_compute": stats.prompt_tokens_local_compute,
        "local_cache_hit": stats.prompt_tokens_local_cache,
        "external_kv_transfer": stats.prompt_tokens_pulled,
    }
    plain = {
        "vllm:prefix_cache_queries": ("Prompt tokens looked up.", stats.prefix_queries_tokens),
        "vllm:prefix_cache_hits": ("Prompt tokens found.", stats.prefix_hits_tokens),
        "vllm:external_prefix_cache_queries": (
            "Prompt tokens not found here.",
            stats.prefix_queries_tokens - stats.prefix_hits_tokens,
        ),
        "vllm:external_prefix_cache_hits": ("Prompt tokens pulled.", stats.prompt_tokens_pulled),
        "vllm:prompt_tokens": ("Prompt tokens.", stats.prompt_tokens),
        "vllm:generation_tokens": ("Generated tokens.", stats.generated_tokens),
        "vllm:num_preemptions": ("Preempted requests.", stats.preemptions),
        "vllm:nixl_num_failed_transfers": ("Failed pulls.", sum(stats.pulls_failed.values())),
        "vllm:nixl_num_kv_expired_reqs": ("Expired leases.", stats.leases_expired),
    }
    for name, (text, value) in plain.items():
        yield _counter(name, text, model, value)
    yield _counters("vllm:prompt_tokens_by_source", "Prompt tokens by source.", model, "source", sources)


def _draft_metrics(model: str, stats: EngineStats) -> Iterator[Metric]:
    accepted = sum(stats.accepted_tokens)
    places = {str(place): count for place, count in enumerate(stats.accepted_tokens)}
    yield _counter("vllm:spec_decode_num_drafts", "Chains of guesses.", model, stats.drafts)
    yield _counter("vllm:spec_decode_num_draft_tokens", "Guesses.", model, stats.draft_tokens)
    yield _counter("vllm:spec_decode_num_accepted_tokens", "Right guesses.", model, accepted)
    name, text = "vllm:spec_decode_num_accepted_tokens_per_pos", "Right guesses by place in the chain."
    yield _counters(name, text, model, "position", places)
    rate = accepted / max(1, stats.draft_tokens)
    yield _gauge("baton_draft_acceptance", "Share of guesses that were right.", model, rate)


def _baton_metrics(model: str, stats: EngineStats) -> Iterator[Metric]:
    blocks = msgspec.structs.asdict(stats.blocks)
    del blocks["total"]
    yield _gauges("baton_blocks", "KV blocks by state.", model, "state", blocks)
    yield _gauge("baton_leases", "Leases held for decode workers.", model, stats.leases)
    yield _gauge("baton_pulls", "Pulls under way.", model, stats.pulls)
    yield _gauge("baton_peers", "Workers shaken hands with.", model, len(stats.peers))
    if stats.expert_balance is not None:
        balance = msgspec.structs.asdict(stats.expert_balance)
        text = "Mean over maximum of the ranks' expert load."
        yield _gauges("baton_expert_balancedness", text, model, "when", balance)
    yield _counter("baton_steps", "Engine steps.", model, stats.steps)
    yield _counter("baton_kv_bytes_pulled", "KV bytes pulled.", model, stats.kv_bytes_pulled)
    yield _counters("baton_pulls_failed", "Failed pulls by reason.", model, "reason", stats.pulls_failed)


def _gauge(name: str, text: str, model: str, value: float) -> Metric:
    metric = GaugeMetricFamily(name, text, labels=["model_name"])
    metric.add_metric([model], value)
    return metric


def _gauges(name: str, text: str, model: str, label: str, values: Mapping[str, float]) -> Metric:
    metric = GaugeMetricFamily(name, text, labels=["model_name", label])
    for key, value in values.items():
        metric.add_metric([model, key], value)
    return metric


def _counter(name: str, text: str, model: str, value: float) -> Metric:
    metric = CounterMetricFamily(name, text, labels=["model_name"])
    metric.add_metric([model], value)
    return metric


def _counters(name: str, text: str, model: str, label: str, values: Mapping[str, float]) -> Metric:
    metric = CounterMetricFamily(name, text, labels=["model_name", label])
    for key, value in values.items():
        metric.add_metric([model, key], value)
    return metric
