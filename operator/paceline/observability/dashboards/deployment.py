"""Deployment: its engines and their roles over time, load, latencies, KV cache, hit rate."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from paceline.observability.dashboards.decisions import decisions
from paceline.observability.dashboards.panels import (
    HALF,
    OR_NONE,
    RATE,
    RED,
    THIRD,
    WHO,
    YELLOW,
    board,
    chart,
    heat,
    parts,
    quantiles,
    share,
)


def deployment() -> dashboard.Dashboard:
    """The page to keep open for one deployment."""
    roles = f'avg by (role) (sum by (role, pod) (paceline_router_fleet_engines{{{WHO},state="ready"}}))'
    other = f'paceline_router_fleet_engines{{{WHO},state!="ready"}}'
    ready = f'paceline_router_fleet_engines{{{WHO},state="ready"'
    hits = f"sum(rate(vllm:prefix_cache_hits_total{{{WHO}}}[{RATE}]))"
    queries = f"sum(rate(vllm:prefix_cache_queries_total{{{WHO}}}[{RATE}]))"
    return (
        board("deployment", "Deployment", "Engines, roles, load and latencies of one deployment.")
        .annotation(decisions())
        .with_panel(
            parts(
                "Engines by role",
                "Ready ones, as the routers see them. Lines down the page are decisions.",
                "short",
                roles,
                "role",
            )
        )
        .with_panel(
            chart(
                "Prefill to decode",
                "Ready engines of the one role for each of the other.",
                "suffix:x",
                (
                    share(
                        f'avg(sum by (pod) ({ready},role="prefill"}}))', f'avg(sum by (pod) ({ready},role="decode"}}))'
                    ),
                    "ratio",
                ),
            )
        )
        .with_panel(
            chart(
                "Engines that are not ready",
                "By state.",
                "short",
                (
                    f"avg by (state) (sum by (state, pod) ({other})){OR_NONE}",
                    "{{state}}",
                ),
            )
        )
        .with_panel(
            parts(
                "Requests",
                "Ended, by outcome.",
                "reqps",
                f"sum by (outcome) (rate(paceline_router_requests_total{{{WHO}}}[{RATE}]))",
                "outcome",
            )
        )
        .with_panel(
            chart(
                "Prompt tokens at arrival",
                "Computed anew, and found in a cache.",
                "short",
                (f"sum by (kind) (rate(paceline_router_prompt_tokens_at_arrival_sum{{{WHO}}}[{RATE}]))", "{{kind}}/s"),
                stacked=True,
            )
        )
        .with_panel(
            chart(
                "In the router",
                "Requests that run, those of them that wait, and those for which decode engines have too many streams.",
                "short",
                (f"sum(paceline_router_running_requests{{{WHO}}})", "all"),
                (f"sum(paceline_router_queued_requests{{{WHO}}})", "waiting"),
                (f"sum(paceline_router_queued_decode_requests{{{WHO}}})", "waiting for decode"),
            )
        )
        .with_panel(
            heat(
                "Time to first token",
                "Arrival to first data, of streams.",
                "s",
                f"paceline_router_time_to_first_token_seconds{{{WHO}}}",
            )
        )
        .with_panel(
            heat(
                "Time between tokens",
                "Mean of each stream.",
                "s",
                f"paceline_router_inter_token_latency_seconds{{{WHO}}}",
            )
        )
        .with_panel(
            chart(
                "KV cache in use",
                "Share of blocks, mean of a role. Above 0.9 is what sizing avoids.",
                "percentunit",
                (f"avg by (paceline_dev_role) (vllm:kv_cache_usage_perc{{{WHO}}})", "{{paceline_dev_role}}"),
                limits=((0.9, YELLOW), (0.95, RED)),
                width=THIRD,
            )
        )
        .with_panel(
            chart(
                "Prefix cache hits",
                "Share of prompt tokens that an engine had.",
                "percentunit",
                (share(hits, queries), "hits"),
                width=THIRD,
            )
        )
        .with_panel(
            parts(
                "Where prompts are computed",
                "Placements by reason.",
                "reqps",
                f"sum by (prefill) (rate(paceline_router_placements_total{{{WHO}}}[{RATE}]))",
                "prefill",
                width=THIRD,
            )
        )
        .with_panel(
            chart(
                "Prompt length",
                "Prompt tokens of finished requests.",
                "short",
                *quantiles(f"vllm:request_prompt_tokens{{{WHO}}}", 0.5, 0.95),
                width=HALF,
            )
        )
        .with_panel(
            chart(
                "Answer length",
                "Mean output tokens. A sudden growth is how broken weights show first.",
                "short",
                (
                    share(
                        f"sum(rate(paceline_router_answer_tokens_total{{{WHO}}}[{RATE}]))",
                        f"sum(rate(paceline_router_answers_total{{{WHO}}}[{RATE}]))",
                    ),
                    "tokens",
                ),
                width=HALF,
            )
        )
    )
