"""Engines: each one's load, cache, speed, and how it started and drained."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from paceline.observability.dashboards.panels import (
    HALF,
    OR_NONE,
    RATE,
    RED,
    WHO,
    YELLOW,
    board,
    chart,
    parts,
    quantiles,
    share,
)


def engines() -> dashboard.Dashboard:
    """The page for who looks for the one engine that is not well."""

    def rate(name: str) -> str:
        return f"sum by (pod) (rate(vllm:{name}{{{WHO}}}[{RATE}]))"

    def vllm(name: str) -> str:
        return f"max by (pod) (vllm:{name}{{{WHO}}})"

    each = "{{pod}}"
    return (
        board("engines", "Engines", "Every engine of one deployment: load, cache, speed, start and drain.")
        .with_panel(
            chart(
                "State",
                "1 for the state that holds; ready ones are not shown.",
                "short",
                (f'max by (pod, state) (paceline_engine_state{{{WHO},state!="ready"}})', "{{pod}} {{state}}"),
            )
        )
        .with_panel(
            chart(
                "Start",
                "From the worker's start to readiness.",
                "s",
                (f"max by (pod) (paceline_engine_start_seconds{{{WHO}}})", each),
            )
        )
        .with_panel(
            chart(
                "In flight at the worker",
                "What a drain waits for; as last seen.",
                "short",
                (f"max by (pod) (paceline_engine_in_flight{{{WHO}}}){OR_NONE}", each),
            )
        )
        .with_panel(chart("Running", "Requests in the batch.", "short", (vllm("num_requests_running"), each)))
        .with_panel(
            chart(
                "Waiting",
                "Requests in the engine's own queue; the router keeps it short.",
                "short",
                (vllm("num_requests_waiting"), each),
            )
        )
        .with_panel(
            chart(
                "KV cache in use",
                "Share of blocks.",
                "percentunit",
                (vllm("kv_cache_usage_perc"), each),
                limits=((0.9, YELLOW), (0.95, RED)),
            )
        )
        .with_panel(
            chart("Prompt tokens", "Computed or found, each second.", "short", (rate("prompt_tokens_total"), each))
        )
        .with_panel(chart("Output tokens", "Each second.", "short", (rate("generation_tokens_total"), each)))
        .with_panel(
            chart(
                "Prefix cache hits",
                "Share of prompt tokens that the engine had.",
                "percentunit",
                (share(rate("prefix_cache_hits_total"), rate("prefix_cache_queries_total")), each),
            )
        )
        .with_panel(
            chart(
                "Time between tokens",
                "In the engine.",
                "s",
                *quantiles(f"vllm:inter_token_latency_seconds{{{WHO}}}", 0.95, by="pod"),
            )
        )
        .with_panel(
            chart(
                "Prefill",
                "From the batch to the first token.",
                "s",
                *quantiles(f"vllm:request_prefill_time_seconds{{{WHO}}}", 0.5, 0.95),
            )
        )
        .with_panel(
            chart(
                "Queue",
                "Time in the engine's own queue.",
                "s",
                *quantiles(f"vllm:request_queue_time_seconds{{{WHO}}}", 0.5, 0.95),
            )
        )
        .with_panel(
            chart("KV transfers", "Time of one.", "s", *quantiles(f"vllm:nixl_xfer_time_seconds{{{WHO}}}", 0.5, 0.95))
        )
        .with_panel(
            chart(
                "KV transfers that failed",
                "And those that nobody came for.",
                "ops",
                (f"sum(rate(vllm:nixl_num_failed_transfers_total{{{WHO}}}[{RATE}]))", "failed"),
                (f"sum(rate(vllm:nixl_num_kv_expired_reqs_total{{{WHO}}}[{RATE}]))", "expired"),
            )
        )
        .with_panel(
            chart(
                "Preemptions",
                "Requests pushed out of the batch for want of KV blocks.",
                "ops",
                (rate("num_preemptions_total"), each),
            )
        )
        .with_panel(
            chart(
                "Tokens of a step",
                "Prompt and output together.",
                "short",
                *quantiles(f"vllm:iteration_tokens_total{{{WHO}}}", 0.5, 0.95),
                width=HALF,
            )
        )
        .with_panel(
            parts(
                "Finished requests",
                "By reason.",
                "reqps",
                f"sum by (finished_reason) (rate(vllm:request_success_total{{{WHO}}}[{RATE}]))",
                "finished_reason",
                width=HALF,
            )
        )
    )
