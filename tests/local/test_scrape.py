"""Metrics of engines and routers as values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.local.scrape import EngineMetrics, Histogram, parse_engine, parse_router

ENGINE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="kv"} 99.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:prefix_cache_queries_total{engine="0"} 200.0
vllm:prefix_cache_hits_total{engine="0"} 50.0
vllm:generation_tokens_total{engine="0"} 7.0
"""
ROUTER = """\
paceline_router_running_requests 5.0
paceline_router_queued_requests 1.0
paceline_router_time_to_first_token_seconds_bucket{le="0.1",path="a"} 1.0
paceline_router_time_to_first_token_seconds_bucket{le="1.0",path="a"} 3.0
paceline_router_time_to_first_token_seconds_bucket{le="+Inf",path="a"} 4.0
paceline_router_time_to_first_token_seconds_bucket{le="0.1",path="b"} 1.0
paceline_router_time_to_first_token_seconds_bucket{le="1.0",path="b"} 1.0
paceline_router_time_to_first_token_seconds_bucket{le="+Inf",path="b"} 1.0
"""


def test_an_engines_page_is_summed_over_its_ranks() -> None:
    assert parse_engine(ENGINE) == EngineMetrics(7, 2, 0.25, 200.0, 50.0, 7.0)
    assert parse_engine(ENGINE).hit_rate == 0.25


def test_metrics_that_are_missing_are_zero() -> None:
    assert parse_engine("other 1.0\n") == EngineMetrics()
    assert parse_engine("").hit_rate is None
    assert parse_router("").ttft.quantile(0.5) is None


def test_a_routers_histograms_are_summed_over_their_labels() -> None:
    metrics = parse_router(ROUTER)
    assert (metrics.running, metrics.queued) == (5, 1)
    assert metrics.ttft == Histogram((0.1, 1.0, math.inf), (2.0, 4.0, 5.0))


@pytest.mark.parametrize("garbage", ["vllm:num_requests_running{", 'vllm:num_requests_running{a="b"} x'])
def test_garbage_is_a_value_error(garbage: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_engine(garbage)


def test_quantiles_are_interpolated_within_their_bucket() -> None:
    histogram = Histogram((1.0, 2.0, math.inf), (10.0, 20.0, 20.0))
    assert histogram.quantile(0.25) == 0.5
    assert histogram.quantile(0.75) == 1.5
    assert histogram.share_within(1.5) == 0.75
    assert histogram.share_within(5.0) == 1.0


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    histogram = Histogram((1.0, math.inf), (1.0, 10.0))
    assert histogram.quantile(0.9) == 1.0
    assert histogram.share_within(100.0) == 0.1


def test_what_happened_since_is_the_difference_unless_the_counter_began_anew() -> None:
    before, after = Histogram((1.0, math.inf), (4.0, 5.0)), Histogram((1.0, math.inf), (6.0, 9.0))
    assert after.since(before) == Histogram((1.0, math.inf), (2.0, 4.0))
    assert before.since(after) == before
    assert after.since(Histogram()) == after


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.floats(0.01, 1.0))
def test_a_quantile_and_its_share_agree(increments: list[int], q: float) -> None:
    counts: list[float] = []
    for increment in increments:
        counts.append((counts[-1] if counts else 0) + increment)
    histogram = Histogram(tuple(float(n + 1) for n in range(len(counts))), tuple(counts))
    value = histogram.quantile(q)
    if value is None:
        assert histogram.count == 0
        return
    share = histogram.share_within(value)
    assert share is not None
    assert share >= q - 1e-9
