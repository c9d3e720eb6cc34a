"""The catalogue of metrics against the pages of a real run, and the pages against Prometheus's conventions."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from prometheus_client import generate_latest

from paceline.controller.metrics import OperatorMetrics
from paceline.observability.catalogue import COMPONENTS, Metric, load_catalogue
from paceline.planner.metrics import PlannerMetrics
from tests.observability.live import Prometheus
from tests.observability.pages import Family, families, operator_page_of_a_busy_day, planner_page_of_a_busy_day
from tests.observability.promtool import check_metrics

pytestmark = pytest.mark.timeout(400)  # what the tests need may have to be fetched first

CATALOGUE = load_catalogue()
PREFIXES = {
    "router": "paceline_router_", "engine": "paceline_engine_", "operator": "paceline_operator_",
    "planner": "paceline_planner_", "vllm": "vllm:", "emulator": "paceline_emulator_",
}  # fmt: skip
SOMETIMES = {"paceline_engine_in_flight"}
"""Families that a page has only when there is something to say: an engine that was never asked has none in flight."""


@pytest.fixture(scope="module")
def pages(live: Prometheus) -> list[str]:
    """Of every process of the run, and one of an operator that has counted one of everything."""
    urls = {target["scrapeUrl"] for target in live._ask("/api/v1/targets")["activeTargets"]}
    operator, planner = OperatorMetrics(), PlannerMetrics()
    operator_page_of_a_busy_day(operator)
    planner_page_of_a_busy_day(planner)
    control_plane = operator.render() + generate_latest(planner.registry)
    return [*(httpx.get(url, trust_env=False, timeout=10).text for url in sorted(urls)), control_plane.decode()]


@pytest.fixture(scope="module")
def exported(pages: list[str]) -> dict[str, Family]:
    found: dict[str, Family] = {}
    for page in pages:
        for name, family in families(page).items():
            labels = family.labels | (found[name].labels if name in found else frozenset())
            found[name] = Family(family.type, family.help, labels)
    return found


def of_component(component: str) -> Iterator[Metric]:
    return CATALOGUE.of(component)


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_catalogue_and_the_pages_name_the_same_metrics(component: str, exported: dict[str, Family]) -> None:
    listed = {metric.name for metric in of_component(component)}
    seen = {name for name in exported if name.startswith(PREFIXES[component])}
    assert seen - listed == set(), "exported, and not in paceline/observability/metrics.toml"
    assert listed - seen - SOMETIMES == set(), "in paceline/observability/metrics.toml, and not exported"


@pytest.mark.parametrize("component", COMPONENTS)
def test_types_help_and_labels_are_as_the_catalogue_says(component: str, exported: dict[str, Family]) -> None:
    for metric in of_component(component):
        family = exported.get(metric.name)
        if family is not None:
            assert (metric.name, family.type, family.help) == (metric.name, metric.type, metric.help)
            added = {"engine", "model_name"} if component in {"vllm", "emulator"} else set()
            assert family.labels - added <= set(metric.labels), metric.name


def test_every_label_is_explained() -> None:
    used = {label for metric in CATALOGUE.metrics for label in metric.labels}
    assert used <= CATALOGUE.labels.keys()


def test_promtool_has_nothing_against_our_pages(pages: list[str]) -> None:
    """vLLM's names are vLLM's: they have a colon, which promtool keeps for recording rules."""
    assert len(pages) >= 9
    for page in pages:
        complaints = [line for line in check_metrics(page).splitlines() if not line.startswith("vllm:")]
        assert complaints == []
