"""Metrics in Prometheus' text format, as its own parser reads them."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from paceline_worker.emulator.metrics import Histogram, Metrics, token_buckets


def render(metrics: Metrics) -> str:
    return metrics.render(
        gauges={"num_requests_running": 2, "kv_cache_usage_perc": 0.25},
        waiting={"capacity": 3, "deferred": 1},
        cache_config={"block_size": "16"},
        own={"held_requests": 4},
    ).decode()


def test_every_family_is_typed_and_parses() -> None:
    families = {family.name: family for family in text_string_to_metric_families(render(Metrics("m", 4096)))}
    assert families["vllm:prompt_tokens"].type == "counter"
    assert families["vllm:num_requests_running"].samples[0].value == 2
    assert families["vllm:cache_config_info"].samples[0].labels == {"block_size": "16"}
    assert {s.labels["reason"]: s.value for s in families["vllm:num_requests_waiting_by_reason"].samples} == {
        "capacity": 3, "deferred": 1,
    }  # fmt: skip
    assert all(family.documentation and family.type != "unknown" for family in families.values())


def test_a_histogram_counts_a_value_in_its_bucket_and_all_above() -> None:
    metrics = Metrics("m", 4096)
    metrics.time_to_first_token.observe(0.005)
    metrics.time_to_first_token.observe(0.0051, 2)
    metrics.time_to_first_token.observe(1e9)
    (family,) = (
        f for f in text_string_to_metric_families(render(metrics)) if f.name == "vllm:time_to_first_token_seconds"
    )
    buckets = {s.labels["le"]: s.value for s in family.samples if s.name.endswith("_bucket")}
    assert (buckets["0.001"], buckets["0.005"], buckets["0.01"], buckets["2560.0"], buckets["+Inf"]) == (0, 1, 3, 3, 4)
    assert next(s.value for s in family.samples if s.name.endswith("_count")) == 4


def test_a_histogram_adds_up_what_it_saw() -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(1.5, 3)
    assert histogram.count == 3
    assert histogram.total == pytest.approx(4.5)


def test_token_buckets_end_at_the_model_length() -> None:
    assert token_buckets(100) == (1, 2, 5, 10, 20, 50, 100)


def test_a_model_name_with_quotes_stays_one_label() -> None:
    families = text_string_to_metric_families(render(Metrics('a"b\\c\nd', 64)))
    assert next(iter(families)).samples[0].labels["model_name"] == 'a"b\\c\nd'
