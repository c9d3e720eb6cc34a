"""The live run that the tests of this folder share, with a Prometheus that scrapes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.observability.live import Prometheus, local_run, scraping

LOAD = ("--speed", "4", "--load", "conversation", "--load-minutes", "30", "--rate-scale", "0.25")


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped a deployment under load often enough for every rate."""
    folder: Path = tmp_path_factory.mktemp("live")
    with local_run(folder, *LOAD) as targets, scraping(folder, targets) as one:
        answered = 'sum(paceline_router_slo_requests_total{met=~"yes|no"}) > 20'
        one.until("requests are answered", lambda: one.query(answered))
        one.until("blocks move", lambda: one.query("sum(vllm:nixl_xfer_time_seconds_count) > 3"))
        one.until(
            "rates have two samples",
            lambda: one.query("paceline:slo_burn:rate1h and paceline:slo_budget_left:ratio28d"),
        )
        yield one
