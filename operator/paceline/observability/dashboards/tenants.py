"""Tenants: who uses how much, who is held back by its own limits, and whether everybody has keys."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders import dashboard

from paceline.observability.dashboards.panels import (
    GREEN,
    HALF,
    OR_NONE,
    RATE,
    RED,
    WHO,
    YELLOW,
    board,
    chart,
    number,
    parts,
    share,
)

NOBODY_ASKS: Final = "Without tenancy.mode ApiKeys there are no tenants, and nothing is shown."


def tenants() -> dashboard.Dashboard:
    """The page for who shares a deployment between people that don't know one another."""

    def rate(name: str, by: str = "tenant", more: str = "") -> str:
        return f"sum by ({by}) (rate(paceline_router_tenant_{name}{{{WHO}{more}}}[{RATE}]))"

    def gauge(name: str, how: str = "sum") -> str:
        return f"{how} by (tenant) (paceline_router_tenant_{name}{{{WHO}}})"

    uncached = rate("prompt_tokens_total", more=',kind="uncached"')
    tokens = f"({uncached} + {rate('output_tokens_total')})"
    limited, offered = "paceline_router_tenant_limited_total", "paceline_router_tenant_requests_total"
    return (
        board("tenants", "Tenants", f"Usage and limits of tenants. {NOBODY_ASKS}")
        .with_panel(number("Tenants", "That are told apart.", "short", f"count({gauge('keys', 'max')})"))
        .with_panel(
            number(
                "Without a key",
                "Tenants that nobody can be: their Secret is missing or empty.",
                "short",
                f"count({gauge('keys', 'min')} == 0){OR_NONE}",
                limits=((None, GREEN), (1, RED)),
            )
        )
        .with_panel(
            number(
                "Held back",
                "Share of requests that their tenant's own limit refused.",
                "percentunit",
                share(f"sum(rate({limited}{{{WHO}}}[{RATE}]))", f"sum(rate({offered}{{{WHO}}}[{RATE}]))") + OR_NONE,
                limits=((None, GREEN), (0.01, YELLOW), (0.2, RED)),
            )
        )
        .with_panel(
            number(
                "Without a valid key",
                "Requests that were turned away.",
                "reqps",
                f'sum(rate(paceline_router_requests_total{{{WHO},outcome="unauthorized"}}[{RATE}])){OR_NONE}',
                limits=((None, GREEN), (1, YELLOW)),
            )
        )
        .with_panel(
            number(
                "Keys in force",
                "Of all tenants.",
                "short",
                f"sum({gauge('keys', 'max')})",
            )
        )
        .with_panel(
            number(
                "Changes of keys",
                "In a day, on all routers.",
                "short",
                f"sum(increase(paceline_router_tenant_key_changes_total{{{WHO}}}[1d])){OR_NONE}",
            )
        )
        .with_panel(parts("Requests", "By tenant.", "reqps", rate("requests_total") + OR_NONE, "tenant", width=HALF))
        .with_panel(
            parts(
                "Tokens that count",
                "Uncached prompt and output: what quotas and turns in the queue go by.",
                "short",
                tokens + OR_NONE,
                "tenant",
                width=HALF,
            )
        )
        .with_panel(
            parts("Output", "Tokens a second.", "short", rate("output_tokens_total") + OR_NONE, "tenant", width=HALF)
        )
        .with_panel(
            chart(
                "Prompts found in a cache",
                "Share of a tenant's prompt tokens.",
                "percentunit",
                (
                    share(rate("prompt_tokens_total", more=',kind="cached"'), rate("prompt_tokens_total")) + OR_NONE,
                    "{{tenant}}",
                ),
                width=HALF,
            )
        )
        .with_panel(
            chart(
                "Refused by their own limit",
                "By tenant and limit: requests at a time, or tokens a minute.",
                "reqps",
                (rate("limited_total", "tenant, limit") + OR_NONE, "{{tenant}} {{limit}}"),
            )
        )
        .with_panel(
            chart(
                "Quota left",
                "Share of a minute's tokens, at the router that has least; none where there is no limit.",
                "percentunit",
                (
                    f"min by (tenant) (clamp_min(paceline_router_tenant_quota_left_tokens{{{WHO}}}, 0)"
                    f" / paceline_router_tenant_quota_tokens{{{WHO}}})",
                    "{{tenant}}",
                ),
                limits=((None, RED), (0.1, YELLOW), (0.3, GREEN)),
            )
        )
        .with_panel(
            parts(
                "In the router",
                "Requests, waiting ones among them.",
                "short",
                gauge("running_requests"),
                "tenant",
            )
        )
        .with_panel(
            parts(
                "Went wrong",
                "Requests that were rejected for want of room, failed, or broke off.",
                "reqps",
                rate("requests_total", more=',outcome=~"rejected|upstream_error|broken|internal_error"') + OR_NONE,
                "tenant",
                width=HALF,
            )
        )
        .with_panel(
            chart(
                "Keys",
                "In force, at the router that has fewest. While one is replaced there are two.",
                "short",
                (gauge("keys", "min"), "{{tenant}}"),
                width=HALF,
            )
        )
    )
