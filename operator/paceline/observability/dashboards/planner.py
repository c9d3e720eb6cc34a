"""Planner: what it asks for beside what there is, what it did, and whether it sees."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard

from paceline.observability.dashboards.decisions import decisions
from paceline.observability.dashboards.panels import (
    GREEN,
    HALF,
    RATE,
    RED,
    WHO,
    YELLOW,
    board,
    chart,
    number,
    parts,
    quantiles,
)

MINE: Final = 'namespace="$namespace",deployment="$deployment"'
"""The planner speaks of deployments; it is not one of their pods."""


def planner() -> dashboard.Dashboard:
    """The page for who asks why there are so many engines."""

    def rate(name: str, by: str) -> str:
        return f"sum by ({by}) (increase(paceline_planner_{name}{{{MINE}}}[{RATE}]))"

    ready = f'avg by (role) (sum by (role, pod) (paceline_router_fleet_engines{{{WHO},state="ready"}}))'
    return (
        board("planner", "Planner", "What the planner sees, asks for and does. `paceline explain` says why, in words.")
        .annotation(decisions())
        .with_panel(
            number(
                "Sees",
                "1 while it sees what it decides on; 0: it holds the last counts.",
                "short",
                f"min(paceline_planner_metrics_available{{{MINE}}})",
                limits=((None, RED), (1, GREEN)),
                width=6,
            )
        )
        .with_panel(
            number(
                "Engines asked for",
                "Of all roles.",
                "short",
                f"sum(paceline_planner_desired_engines{{{MINE}}})",
                width=6,
            )
        )
        .with_panel(
            number(
                "Beyond reach",
                "Share of the prefill work that no allowed number of engines can do.",
                "percentunit",
                f"max(paceline_planner_shed_ratio{{{MINE}}})",
                limits=((None, GREEN), (0.01, YELLOW), (0.1, RED)),
                width=6,
            )
        )
        .with_panel(
            number(
                "Changes in an hour",
                "Flips, starts and removals.",
                "short",
                f"sum(increase(paceline_planner_actions_total{{{MINE}}}[1h]))",
                width=6,
            )
        )
        .with_panel(
            chart(
                "Asked for and ready",
                "By role. What it would have without limits and manual edits is recommended.",
                "short",
                (f"sum by (role) (paceline_planner_desired_engines{{{MINE}}})", "{{role}} asked for"),
                (f"sum by (role) (paceline_planner_recommended_engines{{{MINE}}})", "{{role}} recommended"),
                (ready, "{{role}} ready"),
                width=HALF,
            )
        )
        .with_panel(
            chart(
                "Attainment as the planner sees it",
                "Requests within both limits, in its demand window.",
                "percentunit",
                (f"min(paceline_planner_attainment_ratio{{{MINE}}})", "attainment"),
                (f"max(paceline:slo_target:ratio{{{WHO}}})", "target"),
                width=HALF,
            )
        )
        .with_panel(
            parts(
                "What bound",
                "The limit behind the last decision.",
                "short",
                f"max by (limit) (paceline_planner_bound{{{MINE}}}) == 1",
                "limit",
            )
        )
        .with_panel(
            chart(
                "What each limit demands",
                "Engines, for the far horizon; a gap is a demand that no number meets.",
                "short",
                (f"max by (role, limit) (paceline_planner_demanded_engines{{{MINE}}}) < Inf", "{{role}} {{limit}}"),
            )
        )
        .with_panel(
            chart(
                "Forecast and what was seen",
                "Prefill work, in engines that it keeps busy. Seen ten minutes later beside far is the error.",
                "short",
                (f"max by (when) (paceline_planner_prefill_load_engines{{{MINE}}})", "{{when}}"),
            )
        )
        .with_panel(
            chart(
                "Accelerator hours",
                "Of the last hour.",
                "short",
                (f"sum(avg_over_time(paceline:accelerators:sum{{{WHO}}}[1h]))", "hours"),
            )
        )
        .with_panel(
            chart(
                "What if: the last decision",
                "Of the requests that can be in time, those that would be, by the model: with the prefill engines that "
                "the planner last changed to, and had it left them as they were.",
                "percentunit",
                (f"min by (engines) (paceline_planner_expected_attainment_ratio{{{MINE}}})", "{{engines}}"),
                (f"max(paceline:slo_target:ratio{{{WHO}}})", "target"),
            )
        )
        .with_panel(
            chart(
                "Within reach",
                "Share of requests that any number of engines could serve in time; the rest is too long by itself.",
                "percentunit",
                (f"min(paceline_planner_feasible_ratio{{{MINE}}})", "feasible"),
            )
        )
        .with_panel(parts("Actions", "That were decided on.", "short", rate("actions_total", "action"), "action"))
        .with_panel(parts("Decisions", "By what came of them.", "short", rate("decisions_total", "outcome"), "outcome"))
        .with_panel(
            chart(
                "Time of a decision",
                "By part, of all deployments.",
                "s",
                *quantiles("paceline_planner_step_seconds{}", 0.95, by="part"),
            )
        )
    )
