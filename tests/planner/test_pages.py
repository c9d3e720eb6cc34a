"""A page is taken as a whole or refused as a whole."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.planner.pages import BadPage, EngineGauges, Sample, make_page
from paceline.planner.scrape import read_lines
from paceline.policy.scaling.demand import TOKEN_BOUNDS
from paceline_worker.router.metrics import TOKEN_BUCKETS
from tests.planner.pages import FakeRouter, parsed, text_of


def busy() -> FakeRouter:
    router = FakeRouter(
        queued=5, queued_decode=3, queued_seconds=1.5, engines={"a": EngineGauges(3, 1, 0.25, 4096, "slow", True)}
    )
    router.arrive(1000, 512, times=5)
    router.arrive(2_000_000)
    router.answer(1500, 80, times=4, itl=False)
    return router


def test_a_page_says_what_the_router_counted() -> None:
    router = busy()
    assert parsed(router, 7.0) == router.page(7.0)


def test_a_page_reads_the_same_from_the_text_that_routers_send() -> None:
    router = busy()
    text = "# HELP paceline_router_x Whatever.\nother_metric 3\n" + text_of(router.samples())
    assert make_page(7.0, read_lines(text)) == router.page(7.0)


def test_the_planner_and_the_router_have_the_same_buckets() -> None:
    assert [float(bound) for bound in TOKEN_BOUNDS] == list(TOKEN_BUCKETS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, 2.0**60])
@pytest.mark.parametrize("index", [0, 40, 80, -1])
def test_a_value_that_cannot_be_refuses_the_page(value: float, index: int) -> None:
    samples = busy().samples()
    samples[index] = samples[index]._replace(value=value)
    with pytest.raises(BadPage, match=samples[index].name):
        make_page(0.0, samples)


def test_a_histogram_that_falls_refuses_the_page() -> None:
    samples = busy().samples()
    samples[20] = samples[20]._replace(value=1_000.0)
    with pytest.raises(BadPage, match="fewer requests up to a larger bound"):
        make_page(0.0, samples)


def test_half_of_a_histogram_refuses_the_page() -> None:
    with pytest.raises(BadPage, match="not all of its buckets"):
        make_page(0.0, busy().samples()[5:])


def test_a_router_of_a_former_version_has_nobody_wait_for_a_decode_engine() -> None:
    router = busy()
    samples = [one for one in router.samples() if not one.name.endswith("queued_decode_requests")]
    page = make_page(7.0, samples)
    assert (page.queued, page.queued_decode) == (5, 0)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_no_such_number_of_requests_waits_for_a_decode_engine(value: float) -> None:
    samples = [*busy().samples(), Sample("paceline_router_queued_decode_requests", {}, value)]
    with pytest.raises(BadPage, match="queued_decode_requests is"):
        make_page(7.0, samples)


def test_kinds_that_count_different_requests_refuse_the_page() -> None:
    router = busy()
    router.uncached[3] += 1
    with pytest.raises(BadPage, match="by one kind and"):
        parsed(router, 0.0)


def test_a_share_above_one_refuses_the_page() -> None:
    router = busy()
    router.engines["a"].kv_usage = 1.5
    with pytest.raises(BadPage, match="a share can't be"):
        parsed(router, 0.0)


@given(st.lists(st.sampled_from(range(150)), max_size=20), st.floats(allow_nan=True, allow_infinity=True))
def test_whatever_is_missing_or_wrong_ends_in_a_page_or_a_refusal(missing: list[int], value: float) -> None:
    samples = [one for index, one in enumerate(busy().samples()) if index not in missing]
    samples.append(Sample("paceline_router_queued_requests", {}, value))
    try:
        page = make_page(1.0, samples)
    except BadPage:
        return
    assert page.queued >= 0
    assert sum(page.counters.uncached) == sum(page.counters.cached)
