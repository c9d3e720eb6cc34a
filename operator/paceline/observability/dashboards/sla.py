"""SLA overview: is the objective met, what is left of the error budget, what does it cost?"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard

from paceline.observability.dashboards.panels import (
    GREEN,
    HALF,
    RED,
    WHO,
    YELLOW,
    board,
    chart,
    number,
    quantiles,
    share,
)  # fmt: skip

PRICE: Final = "4"
"""Of an accelerator for an hour, in the currency of whoever looks; typed into the dashboard."""
GOOD: Final = ((None, RED), (0.9, YELLOW), (0.95, GREEN))
BUDGET: Final = ((None, RED), (0.0, YELLOW), (0.25, GREEN))
BURN: Final = ((None, GREEN), (1.0, YELLOW), (6.0, RED))


def sla_overview() -> dashboard.Dashboard:
    """The page for whoever answers for the objective."""
    accelerators = f"sum(paceline:accelerators:sum{{{WHO}}})"
    tokens = f"sum(paceline:answer_tokens:rate5m{{{WHO}}})"
    allowed = f"(1.0001 - max(paceline:slo_target:ratio{{{WHO}}}))"
    price = dashboard.TextBoxVariable("price").label("Price of an accelerator hour").default_value(PRICE)
    return (
        board(
            "sla", "SLA overview", "Whether the objective is met, what is left of the error budget, and what it costs."
        )
        .with_variable(price)
        .with_panel(
            number(
                "Attainment",
                "Requests within both limits of their class, last 5 minutes.",
                "percentunit",
                f"min(paceline:slo_attainment:ratio_rate5m{{{WHO}}})",
                limits=GOOD,
            )
        )
        .with_panel(
            number(
                "Target",
                "Share of requests that is to meet the objective.",
                "percentunit",
                f"max(paceline:slo_target:ratio{{{WHO}}})",
            )
        )
        .with_panel(
            number(
                "Budget left",
                "Of the misses that 28 days may have.",
                "percentunit",
                f"min(paceline:slo_budget_left:ratio28d{{{WHO}}})",
                limits=BUDGET,
            )
        )
        .with_panel(
            number(
                "Burn rate",
                "1 uses the budget up in exactly 28 days.",
                "suffix:x",
                f"max(paceline:slo_burn:rate1h{{{WHO}}})",
                limits=BURN,
            )
        )
        .with_panel(number("Accelerators", "That its engines hold.", "short", accelerators))
        .with_panel(
            number(
                "Cost per million tokens",
                "Accelerators at the price above, over the tokens of answers.",
                "currencyUSD",
                share(f"{accelerators} * $price", f"{tokens} * 3600 / 1e6"),
            )
        )
        .with_panel(
            chart(
                "Attainment by class",
                "Share of requests within both limits.",
                "percentunit",
                (f"paceline:slo_attainment:ratio_rate5m{{{WHO}}}", "{{class}}"),
                (f"max(paceline:slo_target:ratio{{{WHO}}})", "target"),
                width=HALF,
            )
        )
        .with_panel(
            chart(
                "Error budget left",
                "By class, of 28 days.",
                "percentunit",
                (f"paceline:slo_budget_left:ratio28d{{{WHO}}}", "{{class}}"),
                limits=((0.0, RED),),
                width=HALF,
            )
        )
        .with_panel(
            chart(
                "Time to first token",
                "Of streams, with the objective.",
                "s",
                *quantiles(f"paceline_router_time_to_first_token_seconds{{{WHO}}}", 0.5, 0.95, 0.99),
                (f'max(paceline_router_slo_ttft_seconds{{{WHO},class="default"}})', "objective"),
                width=HALF,
            )
        )
        .with_panel(
            chart(
                "Time between tokens",
                "Mean of each stream, with the objective.",
                "s",
                *quantiles(f"paceline_router_inter_token_latency_seconds{{{WHO}}}", 0.5, 0.95, 0.99),
                (f'max(paceline_router_slo_itl_seconds{{{WHO},class="default"}})', "objective"),
                width=HALF,
            )
        )
        .with_panel(
            chart(
                "Requests",
                "By whether they met the objective.",
                "reqps",
                (f"sum by (met) (rate(paceline_router_slo_requests_total{{{WHO}}}[$__rate_interval]))", "met: {{met}}"),
                stacked=True,
                width=HALF,
            )
        )
        .with_panel(
            chart(
                "Burn rate over each window",
                "Lines as the alerts see them: 14.4 over an hour pages.",
                "suffix:x",
                *(
                    (
                        f"max(paceline:slo_errors:ratio_rate{window}{{{WHO}}}) / {allowed}",
                        window,
                    )
                    for window in ("5m", "1h", "6h", "1d", "3d")
                ),
                limits=((1.0, YELLOW), (14.4, RED)),
                width=HALF,
            )
        )
    )
