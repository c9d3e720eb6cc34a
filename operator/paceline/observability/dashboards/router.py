"""Router: what it does with requests, its queue, its knowledge of caches, and its own health."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from paceline.observability.dashboards.panels import (
    GREEN,
    OR_NONE,
    RATE,
    RED,
    THIRD,
    WHO,
    YELLOW,
    board,
    chart,
    number,
    parts,
    quantiles,
    share,
)


def router() -> dashboard.Dashboard:
    """The page for who looks after the front door."""

    def rate(name: str, by: str) -> str:
        return f"sum by ({by}) (rate(paceline_router_{name}{{{WHO}}}[{RATE}]))"

    def gauge(name: str, by: str = "pod") -> str:
        return f"sum by ({by}) (paceline_router_{name}{{{WHO}}})"

    return (
        board("router", "Router", "Requests, queue, cache knowledge and health of the routers.")
        .with_panel(number("Routers", "That are scraped.", "short", f"count(paceline_router_fleet_version{{{WHO}}})"))
        .with_panel(
            number(
                "Refused",
                "Share of requests, for want of room.",
                "percentunit",
                share(
                    f"sum(rate(paceline_router_rejections_total{{{WHO}}}[{RATE}])){OR_NONE}",
                    f"sum(rate(paceline_router_requests_total{{{WHO}}}[{RATE}]))",
                ),
                limits=((None, GREEN), (0.001, YELLOW), (0.01, RED)),
            )
        )
        .with_panel(
            number("Waiting", "Requests in the queue.", "short", f"sum(paceline_router_queued_requests{{{WHO}}})")
        )
        .with_panel(
            number(
                "Waiting work",
                "Prefill seconds of the queue.",
                "s",
                f"sum(paceline_router_queued_prefill_seconds{{{WHO}}})",
            )
        )
        .with_panel(
            number("Sessions", "Conversations that are remembered.", "short", f"sum(paceline_router_sessions{{{WHO}}})")
        )
        .with_panel(
            number(
                "Fleet heard of",
                "Seconds since.",
                "s",
                f"max(paceline_router_fleet_stale_seconds{{{WHO}}})",
                limits=((None, GREEN), (10, YELLOW), (60, RED)),
            )
        )
        .with_panel(parts("Requests by outcome", "Ended ones.", "reqps", rate("requests_total", "outcome"), "outcome"))
        .with_panel(
            parts("Refusals", "By reason.", "reqps", f"{rate('rejections_total', 'reason')}{OR_NONE}", "reason")
        )
        .with_panel(
            parts(
                "Tries elsewhere",
                "By what the first engine did.",
                "reqps",
                f"{rate('retries_total', 'reason')}{OR_NONE}",
                "reason",
            )
        )
        .with_panel(
            parts(
                "Second engines",
                "For what the first was late with, by what came of it. None where hedging is off.",
                "reqps",
                f"{rate('hedges_total', 'outcome')}{OR_NONE}",
                "outcome",
            )
        )
        .with_panel(
            chart(
                "Decision",
                "Time to choose engines for a request.",
                "s",
                *quantiles(f"paceline_router_decision_seconds{{{WHO}}}", 0.5, 0.99),
            )
        )
        .with_panel(
            parts(
                "Streams that broke",
                "By whether another engine went on with them.",
                "reqps",
                f"{rate('resumes_total', 'outcome')}{OR_NONE}",
                "outcome",
            )
        )
        .with_panel(
            chart(
                "Whole request",
                "Arrival to the end of the answer.",
                "s",
                *quantiles(f"paceline_router_request_seconds{{{WHO}}}", 0.5, 0.95, 0.99),
            )
        )
        .with_panel(
            chart(
                "Tokenising",
                "Time that prompts wait for their tokens.",
                "s",
                *quantiles(f"paceline_router_tokenise_seconds{{{WHO}}}", 0.5, 0.99),
            )
        )
        .with_panel(
            parts(
                "Remote prefill", "By what became of it.", "reqps", rate("remote_prefill_total", "outcome"), "outcome"
            )
        )
        .with_panel(
            chart(
                "Prefix index",
                "Entries, and their bound.",
                "short",
                (gauge("prefix_index_entries"), "{{pod}}"),
                (f"max(paceline_router_prefix_index_max_entries{{{WHO}}})", "bound"),
            )
        )
        .with_panel(
            chart(
                "Staleness of cache events",
                "Worst engine of each router.",
                "s",
                (f"max by (pod) (paceline_router_cache_events_staleness_seconds{{{WHO}}})", "{{pod}}"),
                limits=((60.0, RED),),
            )
        )
        .with_panel(
            chart(
                "Index: checked against the truth",
                "Matches that the check did not confirm, of those checked.",
                "percentunit",
                (
                    share(
                        f"sum(rate(paceline_router_prefix_index_disagreements_total{{{WHO}}}[{RATE}]))",
                        f"sum(rate(paceline_router_prefix_index_verified_total{{{WHO}}}[{RATE}]))",
                    )
                    + OR_NONE,
                    "wrong",
                ),
            )
        )
        .with_panel(
            parts(
                "Cache events",
                "Batches by what became of them.",
                "ops",
                rate("cache_event_batches_total", "outcome"),
                "outcome",
            )
        )
        .with_panel(
            parts(
                "Engines by what the router goes by",
                "Events, or only what it sent there.",
                "short",
                gauge("prefix_index_engines", "mode"),
                "mode",
            )
        )
        .with_panel(
            chart(
                "Connections",
                "Of clients and to engines.",
                "short",
                (f"sum(paceline_router_client_connections{{{WHO}}})", "clients"),
                (f"sum(paceline_router_upstream_connections{{{WHO}}})", "engines"),
            )
        )
        .with_panel(
            chart(
                "Token cache",
                "Characters of prompts that were found.",
                "percentunit",
                (
                    share(
                        f'sum(rate(paceline_router_token_cache_characters_total{{{WHO},result="hit"}}[{RATE}]))',
                        f"sum(rate(paceline_router_token_cache_characters_total{{{WHO}}}[{RATE}]))",
                    )
                    + OR_NONE,
                    "hits",
                ),
                width=THIRD,
            )
        )
        .with_panel(chart("Token cache size", "Bytes.", "bytes", (gauge("token_cache_bytes"), "{{pod}}")))
        .with_panel(
            parts(
                "Malformed requests",
                "Refused before they were parsed, by status.",
                "reqps",
                f"{rate('http_refused_total', 'status')}{OR_NONE}",
                "status",
            )
        )
    )
