"""Operator: whether somebody leads, what passes over deployments cost, what it asks of the API server."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from paceline.observability.dashboards.panels import (
    GREEN,
    OR_NONE,
    RATE,
    RED,
    bare_board,
    chart,
    number,
    parts,
    quantiles,
)


def operator() -> dashboard.Dashboard:
    """The page for who looks after the control plane."""

    def rate(name: str, by: str) -> str:
        return f"sum by ({by}) (rate(paceline_operator_{name}[{RATE}]))"

    return (
        bare_board("operator", "Operator", "Leadership, passes and API requests of the operator.")
        .with_panel(
            number(
                "Leaders",
                "One, always.",
                "short",
                "sum(paceline_operator_is_leader)",
                limits=((None, RED), (1, GREEN), (2, RED)),
                width=8,
            )
        )
        .with_panel(
            number(
                "Waiting", "Deployments that wait for a pass.", "short", "sum(paceline_operator_queue_length)", width=8
            )
        )
        .with_panel(
            number("Objects", "In the watch caches.", "short", "sum(paceline_operator_cached_objects)", width=8)
        )
        .with_panel(
            parts("Passes", "Over one deployment, by outcome.", "ops", rate("reconciles_total", "outcome"), "outcome")
        )
        .with_panel(
            chart(
                "Duration of a pass",
                "From its start to its end.",
                "s",
                *quantiles("paceline_operator_reconcile_seconds{}", 0.5, 0.95, 0.99),
            )
        )
        .with_panel(parts("API requests", "By verb.", "reqps", rate("api_requests_total", "verb"), "verb"))
        .with_panel(
            parts(
                "API requests that failed",
                "By code; 0 is no answer.",
                "reqps",
                f'sum by (code) (rate(paceline_operator_api_requests_total{{code!~"2.."}}[{RATE}])){OR_NONE}',
                "code",
            )
        )
        .with_panel(
            chart(
                "API requests by kind",
                "The busiest.",
                "reqps",
                (f"topk(8, {rate('api_requests_total', 'resource')})", "{{resource}}"),
            )
        )
        .with_panel(
            chart(
                "Watches that started anew",
                "By kind.",
                "ops",
                (f"{rate('watch_restarts_total', 'resource')}{OR_NONE}", "{{resource}}"),
            )
        )
        .with_panel(
            chart(
                "Objects by kind",
                "In the watch caches.",
                "short",
                ("sum by (resource) (paceline_operator_cached_objects)", "{{resource}}"),
            )
        )
    )
