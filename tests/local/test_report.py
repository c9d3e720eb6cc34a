"""The SLO report: shares are of what was offered, times are the engines' own, and a slow client is named."""

import json
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.api.v1alpha1 import Objective
from paceline.local.load import LoadResult, RequestResult
from paceline.local.report import LoadFacts, make_report, report_lines, verdict
from paceline.policy.scaling.profiles import get_profile
from paceline.traces.record import TraceRequest

OBJECTIVE = Objective(ttft_milliseconds=2000, itl_milliseconds=50, target_percent=95)


def facts(speed: float = 1.0, **more: object) -> LoadFacts:
    return LoadFacts("d", "engines", "load", speed, **more)  # type: ignore[arg-type]


def done(ttft: float, itl: float | None = 0.02, late: float = 0.0) -> RequestResult:
    request = TraceRequest(0.0, 100, 10)
    return RequestResult(request, 0.0, late, 200, ttft, itl, itl, 1.0, 10)


def failed(error: str = "503: no engine") -> RequestResult:
    return RequestResult(TraceRequest(0.0, 100, 10), 0.0, status=503, error=error, ended=1.0)


results = st.one_of(
    st.builds(done, st.floats(0.001, 10), st.one_of(st.none(), st.floats(0.001, 0.2))), st.builds(failed)
)


@given(st.lists(results, max_size=40), st.sampled_from([1.0, 2.0, 10.0]))
def test_shares_are_of_all_that_was_offered(requests: list[RequestResult], speed: float) -> None:
    report = make_report(LoadResult(requests, seconds=10.0), OBJECTIVE, facts(speed))
    assert report.offered == report.completed + report.failed == len(requests)
    share = report.attainment
    assert 0 <= share.both <= min(share.ttft, share.itl) <= 100
    assert share.ttft <= 100 * report.completed / max(1, len(requests)) + 1e-9
    assert report.goodput_rate == pytest.approx(share.both / 100 * report.offered_rate)
    assert sum(report.errors.values()) == report.failed


@given(st.lists(st.floats(0.001, 10), min_size=1, max_size=60))
def test_quantiles_are_values_that_occurred_in_rising_order(values: list[float]) -> None:
    report = make_report(LoadResult([done(v) for v in values], seconds=1.0), OBJECTIVE, facts())
    assert report.ttft is not None
    found = [report.ttft.p50, report.ttft.p90, report.ttft.p95, report.ttft.p99, report.ttft.max]
    assert found == sorted(found)
    assert set(found) <= {value * 1000 for value in values}


def test_times_and_rates_are_in_the_engines_time() -> None:
    requests = [done(0.1, 0.002), done(0.3, 0.004)]
    report = make_report(LoadResult(requests, seconds=2.0), OBJECTIVE, facts(10.0))
    assert report.ttft is not None
    assert report.itl is not None
    assert (report.ttft.p50, report.ttft.max) == (pytest.approx(1000), pytest.approx(3000))
    assert report.itl.max == pytest.approx(40)
    assert (report.seconds, report.offered_rate) == (20.0, 0.1)
    assert (report.attainment.ttft, report.attainment.itl, report.attainment.both) == (50, 100, 50)
    assert (report.prompt_token_rate, report.output_token_rate) == (10.0, 1.0)


def test_the_objective_itself_is_within_the_objective() -> None:
    assert verdict(done(2.0, 0.05), OBJECTIVE, 1.0) == (True, True)


def test_an_answer_of_one_token_can_not_miss_the_itl_objective() -> None:
    assert verdict(done(1.0, None), OBJECTIVE, 1.0) == (True, True)


def test_a_failed_request_misses_everything_however_fast_it_failed() -> None:
    request = done(0.1)
    request.error = "the stream ended before [DONE]"
    assert verdict(request, OBJECTIVE, 1.0) == (False, False)


def test_a_load_of_nothing_attains_nothing() -> None:
    report = make_report(LoadResult(), OBJECTIVE, facts())
    assert (report.offered, report.met, report.attainment.both, report.ttft) == (0, False, 0.0, None)


def test_the_target_is_met_from_its_percentage_on() -> None:
    requests = [done(1.0)] * 95 + [failed()] * 5
    assert make_report(LoadResult(requests, seconds=1.0), OBJECTIVE, facts()).met
    assert not make_report(LoadResult(requests[1:], seconds=1.0), OBJECTIVE, facts()).met


def test_a_late_client_is_named_and_not_blamed_on_the_server() -> None:
    late = make_report(LoadResult([done(1.0, late=0.2)], seconds=1.0), OBJECTIVE, facts())
    assert late.client.slow
    assert "TOO SLOW" in dict(report_lines(late))["client"]
    lagging = make_report(LoadResult([done(1.0)], lags=deque([0.02]), seconds=1.0), OBJECTIVE, facts(10.0))
    assert lagging.client.slow
    assert lagging.client.lag_p99_milliseconds == pytest.approx(200)
    prompt = make_report(LoadResult([done(1.0)], lags=deque([0.001]), seconds=1.0), OBJECTIVE, facts())
    assert not prompt.client.slow


def test_the_report_in_words_says_what_there_is_to_know() -> None:
    requests = [done(0.1, 0.002), failed(), failed("404: no model")]
    result = LoadResult(requests, overruns=2, seconds=2.0)
    more = facts(10.0, left_out=3, malformed=4, cache_hit_percent=12.34, restarts=1)
    lines = report_lines(make_report(result, OBJECTIVE, more))
    text = "\n".join(f"{label} {words}" for label, words in lines)
    for expected in (
        "engines ran 10x as fast; times are in their own time",
        "3 requests in 20 s",
        "completed 1, failed 2",
        "1 x 503: no engine",
        "1 x 404: no model",
        "p50 1,000",
        "33.3% within 2,000 ms",
        "33.3% within both (target 95%: missed)",
        "12.3% of prompt tokens hit",
        "1 engines were started again",
        "3 requests are longer",
        "4 rows of the trace",
        "2 overruns",
    ):
        assert expected in text


def test_requests_that_no_engine_could_serve_in_time_are_counted_apart() -> None:
    model = get_profile("qwen3-32b-h200-tp2")
    assert model.prefill_seconds(100) < 2 < model.prefill_seconds(100_000)
    long = RequestResult(TraceRequest(0.0, 100_000, 10), 0.0, error="too slow")
    requests = [done(1.0), failed(), done(9.0), done(1.0), long]
    result = LoadResult(requests, seconds=1.0)
    report = make_report(result, OBJECTIVE, facts(prefill_model=model))
    assert report.feasible is not None
    assert (report.feasible.percent, report.feasible.attainment_percent) == (80, 50)
    assert "80.0% of the requests have a prompt" in dict(report_lines(report))["feasible"]
    assert make_report(result, OBJECTIVE, facts()).feasible is None


def test_the_report_is_json() -> None:
    report = make_report(LoadResult([done(1.0)], seconds=1.0), OBJECTIVE, facts())
    document = json.loads(json.dumps(report.as_json()))
    assert document["ttft"]["p50"] == 1000
    assert document["attainment"]["both"] == 100
