"""Whether requests met the objective of their class, as the metrics page says it."""

from __future__ import annotations

import pytest

from paceline.api.wire import Objective, RequestClass, RouterConfig
from paceline_worker.router.slo import MISSED_BY, NO_CLASS, SloCounts
from tests.series import collected


@pytest.fixture
def slo() -> SloCounts:
    batch = RequestClass(
        name="batch",
        priority=-10,
        objective=Objective(ttft_milliseconds=60_000, itl_milliseconds=500, target_percent=90),
    )
    objective = Objective(ttft_milliseconds=2000, itl_milliseconds=50, target_percent=95)
    return SloCounts(
        RouterConfig(deployment="d", namespace="n", served_names=("m",), objective=objective, classes=(batch,))
    )


def samples(slo: SloCounts) -> dict[tuple[str, ...], float]:
    return collected(slo, "paceline_router_slo_")


def counts(slo: SloCounts, request_class: str) -> tuple[float, float]:
    found = samples(slo)
    return found["requests_total", request_class, "yes"], found["requests_total", request_class, "no"]


def test_every_class_is_there_from_the_start_with_its_objective(slo: SloCounts) -> None:
    found = samples(slo)
    assert counts(slo, NO_CLASS) == counts(slo, "batch") == (0, 0)
    assert (found["target_ratio", "batch"], found["ttft_seconds", "batch"], found["itl_seconds", "batch"]) == (
        0.9,
        60,
        0.5,
    )
    assert found["target_ratio", NO_CLASS] == 0.95


@pytest.mark.parametrize(
    ("ttft", "itl", "met"), [(2.0, 0.05, True), (2.001, 0.01, False), (1.0, 0.051, False), (2.0, None, True)]
)
def test_a_stream_meets_its_objective_with_both_limits(
    slo: SloCounts, ttft: float, itl: float | None, met: bool
) -> None:
    slo.streamed(NO_CLASS, ttft_seconds=ttft, itl_seconds=itl)
    assert counts(slo, NO_CLASS) == ((1, 0) if met else (0, 1))


def test_a_class_is_judged_by_its_own_objective(slo: SloCounts) -> None:
    slo.streamed("batch", ttft_seconds=30, itl_seconds=0.4)
    slo.streamed(NO_CLASS, ttft_seconds=30, itl_seconds=0.4)
    assert (counts(slo, "batch"), counts(slo, NO_CLASS)) == ((1, 0), (0, 1))


def test_an_answer_that_is_no_stream_meets_it_by_being_there(slo: SloCounts) -> None:
    slo.answered("batch")
    assert counts(slo, "batch") == (1, 0)


@pytest.mark.parametrize("outcome", sorted(MISSED_BY))
def test_refused_and_failed_requests_have_missed_it(slo: SloCounts, outcome: str) -> None:
    slo.ended("batch", outcome)
    assert counts(slo, "batch") == (0, 1)


@pytest.mark.parametrize("outcome", ["ok", "client_error", "cancelled"])
def test_wrong_requests_and_those_given_up_do_not_count(slo: SloCounts, outcome: str) -> None:
    slo.ended(NO_CLASS, outcome)
    assert counts(slo, NO_CLASS) == (0, 0)
