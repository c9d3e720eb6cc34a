"""Every dashboard: as committed, as Grafana reads it, and as its queries answer on a real Prometheus."""

from __future__ import annotations

import re

import pytest

from paceline.observability.catalogue import load_catalogue
from paceline.observability.dashboards import DASHBOARDS
from paceline.observability.generate import generated_files
from paceline.observability.rules import rule_groups
from tests.observability.boards import (
    LOCAL,
    board,
    panels,
    queries,
    unresolved,
    values,
    without_data,
)
from tests.observability.live import DEPLOYMENT, NAMESPACE, Prometheus
from tests.programs import ROOT

pytestmark = pytest.mark.timeout(400)  # what the tests need may have to be fetched first

UNITS = {"s", "percentunit", "short", "reqps", "ops", "bytes", "currencyUSD", "suffix:x"}
CHOSEN = values(NAMESPACE, DEPLOYMENT)


def metric_names(expression: str) -> set[str]:
    bare = re.sub(r'"[^"]*"', '""', expression)
    return set(re.findall(r"\b(?:paceline[_:][\w:]+|vllm:\w+)\b", bare)) - {
        "paceline_dev_deployment",
        "paceline_dev_role",
    }


@pytest.mark.parametrize("path", sorted(generated_files()))
def test_what_is_committed_is_what_the_code_makes(path: str) -> None:
    assert (ROOT / path).read_text() == generated_files()[path], "run `make generate`"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_a_description_a_unit_and_limits_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(name):
        defaults, place = panel["fieldConfig"]["defaults"], panel["gridPos"]
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"] in UNITS, panel["title"]
        assert defaults["thresholds"]["steps"], panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    titles = [panel["title"] for panel in panels(name)]
    assert len(titles) == len(set(titles))


def test_identifiers_are_unique_and_all_dashboards_link_to_each_other() -> None:
    boards = [board(name) for name in DASHBOARDS]
    assert len({one["uid"] for one in boards}) == len(boards)
    assert all(one["tags"] == ["paceline"] and one["links"][0]["tags"] == ["paceline"] for one in boards)


def test_queries_name_metrics_that_are_exported_or_recorded() -> None:
    known = {name for metric in load_catalogue().metrics for name in metric.series}
    known |= {rule["record"] for group in rule_groups() for rule in group["rules"] if "record" in rule}
    for shown in queries():
        assert metric_names(shown.expression) <= known, (shown.board, shown.panel["title"])


def test_rules_name_metrics_that_are_exported_or_recorded() -> None:
    known = {name for metric in load_catalogue().metrics for name in metric.series}
    rules = [rule for group in rule_groups() for rule in group["rules"]]
    known |= {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        assert metric_names(rule["expr"]) <= known, rule


def test_every_query_of_every_panel_returns_data(live: Prometheus) -> None:
    assert without_data(live, LOCAL, CHOSEN) == []


def test_variables_resolve(live: Prometheus) -> None:
    assert unresolved(live, LOCAL, CHOSEN) == []


def test_every_rule_runs_without_an_error(live: Prometheus) -> None:
    rules = live.rules()
    assert len(rules) == sum(len(group["rules"]) for group in rule_groups())
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []


def test_recorded_attainment_is_what_the_router_counted(live: Prometheus) -> None:
    counted = 'sum(paceline_router_slo_requests_total{met="no"}) / sum(paceline_router_slo_requests_total)'
    total = float(live.query(counted)[0]["value"][1])
    recorded = float(live.query("min(paceline:slo_attainment:ratio_rate5m)")[0]["value"][1])
    assert recorded == pytest.approx(1 - total, abs=0.15), "the run is younger than the window"
