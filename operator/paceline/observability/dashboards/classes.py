"""Classes: who shares the deployment, and how each of them fares against its own objective."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from paceline.observability.dashboards.panels import HALF, RATE, RED, WHO, board, chart, parts


def classes() -> dashboard.Dashboard:
    """The page for who shares one deployment among many."""
    counts = f"paceline_router_slo_requests_total{{{WHO}}}"
    missed = counts.replace("}", ',met="no"}')
    each = "{{class}}"
    return (
        board(
            "classes",
            "Classes",
            "Requests by class: how many, and how they fare against their own objective.",
        )
        .with_panel(
            parts(
                "Requests", "Of each class.", "reqps", f"sum by (class) (rate({counts}[{RATE}]))", "class", width=HALF
            )
        )
        .with_panel(
            parts("Misses", "Of each class.", "reqps", f"sum by (class) (rate({missed}[{RATE}]))", "class", width=HALF)
        )
        .with_panel(
            chart(
                "Attainment",
                "Of each class, by its own limits.",
                "percentunit",
                (f"paceline:slo_attainment:ratio_rate5m{{{WHO}}}", each),
                width=HALF,
            )
        )
        .with_panel(
            chart(
                "Error budget left",
                "Of 28 days.",
                "percentunit",
                (f"paceline:slo_budget_left:ratio28d{{{WHO}}}", each),
                limits=((0.0, RED),),
                width=HALF,
            )
        )
        .with_panel(
            chart(
                "Share of the traffic",
                "Of each class.",
                "percentunit",
                (
                    f"sum by (class) (rate({counts}[{RATE}])) / on () group_left () (sum(rate({counts}[{RATE}])) > 0)",
                    each,
                ),
                width=HALF,
            )
        )
        .with_panel(
            chart(
                "Objective for the first token",
                "Of each class.",
                "s",
                (f"max by (class) (paceline_router_slo_ttft_seconds{{{WHO}}})", each),
                width=HALF,
            )
        )
    )
