"""The live run that the tests of this folder share, with a Prometheus that scrapes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from paceline.controller.metrics import OperatorMetrics
from paceline.planner.metrics import PlannerMetrics
from tests.observability.live import Prometheus, local_run, page, scraping
from tests.observability.pages import operator_page_of_a_busy_day, planner_page_of_a_busy_day

LOAD = ("--speed", "4", "--load", "conversation", "--load-minutes", "30", "--rate-scale", "0.25")


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped a deployment under load often enough for every rate."""
    folder: Path = tmp_path_factory.mktemp("live")
    operator, planner = OperatorMetrics(), PlannerMetrics()
    with ExitStack() as stack:

        def control_plane() -> bytes:
            operator_page_of_a_busy_day(operator)
            planner_page_of_a_busy_day(planner)
            return operator.render() + generate_latest(planner.registry)

        address = stack.enter_context(page(control_plane))
        targets = stack.enter_context(local_run(folder, *LOAD))
        labels = {"namespace": "paceline-system", "pod": "paceline-operator-0"}
        one = stack.enter_context(scraping(folder, targets, {address: labels}))
        answered = 'sum(paceline_router_slo_requests_total{met=~"yes|no"}) > 20'
        one.until("requests are answered", lambda: one.query(answered))
        one.until("blocks move", lambda: one.query("sum(vllm:nixl_xfer_time_seconds_count) > 3"))
        one.until(
            "rates have two samples",
            lambda: one.query("paceline:slo_burn:rate1h and paceline:slo_budget_left:ratio28d"),
        )
        yield one
