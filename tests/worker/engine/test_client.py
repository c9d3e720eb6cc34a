"""What is read from an engine's own metrics."""

from __future__ import annotations

from paceline_worker.engine.client import Load, parse_load

METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.125
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:prompt_tokens_total{engine="0",model_name="m"} 99.0
"""


def test_requests_of_all_ranks_are_added_and_the_fullest_cache_counts():
    load = parse_load(METRICS)
    assert load == Load(running=5, waiting=1, cache_use=0.5)
    assert load.in_flight == 6


def test_metrics_without_the_gauges_say_nothing():
    assert parse_load("# nothing yet\nup 1\n") is None
    assert parse_load("<html>busy</html>") is None


def test_a_sample_that_is_no_number_is_left_out():
    assert parse_load("vllm:num_requests_running 1.0\nvllm:num_requests_waiting soon\n") == Load(1, 0, 0.0)
