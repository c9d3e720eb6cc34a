"""SLO records and alerts, tried by promtool on days as they happen: an outage, a slow leak, a spike, a quiet night."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.observability.rules import BURNS, rule_groups
from tests.observability.promtool import check_rules, run_rule_tests, unit
from tests.programs import ROOT

pytestmark = pytest.mark.timeout(400)  # what the tests need may have to be fetched first

WHO = 'namespace="team",paceline_dev_deployment="chat"'
BY_CLASS = f'{WHO},class="default",pod="router-0"'
BURNING = 'ALERTS{alertname=~"PacelineSloBurn.*",alertstate="firing"}'
CHAT = f'{WHO},class="default"'


def traffic(*stretches: tuple[int, int, int], target: float = 0.95) -> dict[str, str]:
    """Counters of good and bad requests: ``(minutes, good a minute, bad a minute)`` one after the other."""

    def counter(index: int) -> str:
        values, parts = 0, []
        for stretch in stretches:
            step = stretch[index]
            parts.append(f"{values}+{step}x{stretch[0]}")
            values += step * (stretch[0] + 1)
        return " ".join(parts)

    minutes = sum(stretch[0] + 1 for stretch in stretches)
    return {
        f'paceline_router_slo_requests_total{{{BY_CLASS},met="yes"}}': counter(1),
        f'paceline_router_slo_requests_total{{{BY_CLASS},met="no"}}': counter(2),
        f"paceline_router_slo_target_ratio{{{BY_CLASS}}}": f"{target}x{minutes}",
    }


def firing(alert: str) -> str:
    return f'ALERTS{{alertname="{alert}",alertstate="firing"}}'


def engines(state: str, count: str) -> dict[str, str]:
    return {
        f'paceline_router_fleet_engines{{{WHO},pod="router-0",role="both",state="{state}"}}': count,
        f'paceline_router_running_requests{{{WHO},pod="router-0"}}': "3x60",
    }


POD = f'{WHO},pod="engine-0"'
SUSPENDED = f'{WHO},pod="r",reason="script"'
PLANNED = 'namespace="team",deployment="chat"'
SCENARIOS: dict[str, tuple[dict[str, str], list[tuple[str, str, float | None]]]] = {
    "attainment and burn are what the counters say": (
        traffic((70, 90, 10)),
        [
            ("66m", f"paceline:slo_attainment:ratio_rate5m{{{CHAT}}} > bool 0.8999 < bool 2", 1),
            ("66m", f"round(paceline:slo_errors:ratio_rate1h{{{CHAT}}}, 0.001)", 0.1),
            ("66m", f"round(paceline:slo_burn:rate1h{{{CHAT}}}, 0.1)", 2.0),
            ("66m", f"round(paceline:slo_requests:rate5m{{{CHAT}}} * 60)", 100),
            ("66m", f"round(paceline:slo_budget_left:ratio28d{{{CHAT}}}, 0.1)", -1.0),
        ],
    ),
    "nobody asks: there is no attainment, and no alert": (
        traffic((200, 0, 0)),
        [
            ("190m", "paceline:slo_attainment:ratio_rate5m", None),
            ("190m", 'ALERTS{alertname=~"PacelineSloBurn.*"}', None),
        ],
    ),
    "a router that restarts loses no requests": (
        {
            f'paceline_router_slo_requests_total{{{BY_CLASS},met="yes"}}': "0+60x30 0+60x30",
            f'paceline_router_slo_requests_total{{{BY_CLASS},met="no"}}': "0x62",
        },
        [("50m", f"round(paceline:slo_requests:rate30m{{{CHAT}}}, 0.1) > bool 0.9", 1)],
    ),
    "an outage pages within minutes": (
        traffic((30, 100, 0), (60, 5, 95)),
        [("29m", firing("PacelineSloBurn1h"), None), ("90m", firing("PacelineSloBurn1h"), 1)],
    ),
    "the page ends soon after the outage": (
        traffic((30, 0, 100), (30, 100, 0)),
        [("30m", firing("PacelineSloBurn1h"), 1), ("45m", firing("PacelineSloBurn1h"), None)],
    ),
    "a short spike pages nobody": (
        traffic((180, 100, 0), (4, 0, 100), (60, 100, 0)),
        [
            (f"{minute}m", 'ALERTS{alertname=~"PacelineSloBurn.*",alertstate="firing"}', None)
            for minute in (184, 190, 240)
        ],
    ),
    "a modest target can't switch the page off": (
        traffic((50, 2, 98), target=0.8),
        [("50m", firing("PacelineSloBurn1h"), 1)],
    ),
    "a handful of requests is no statistics": (
        {
            f'paceline_router_slo_requests_total{{{BY_CLASS},met="no"}}': "0+1x4 4x115",
            f'paceline_router_slo_requests_total{{{BY_CLASS},met="yes"}}': "0x120",
            f"paceline_router_slo_target_ratio{{{BY_CLASS}}}": "0.95x120",
        },
        [("10m", firing("PacelineSloBurn1h"), None), ("30m", firing("PacelineSloBurn1h"), None)],
    ),
    "requests without an engine page": (
        engines("starting", "2x60"),
        [("1m", firing("PacelineNoUsableEngine"), None), ("10m", firing("PacelineNoUsableEngine"), 1)],
    ),
    "requests with an engine do not": (
        engines("ready", "2x60"),
        [("20m", firing("PacelineNoUsableEngine"), None)],
    ),
    "refusing a few in a hundred is a ticket": (
        {
            f'paceline_router_rejections_total{{{WHO},reason="queue-full",pod="r"}}': "0+3x60",
            f'paceline_router_requests_total{{{WHO},outcome="ok",path="/v1/completions",pod="r"}}': "0+97x60",
        },
        [("30m", firing("PacelineRejections"), 1)],
    ),
    "prefills that decode engines have to do are a ticket": (
        {
            f'paceline_router_remote_prefill_total{{{WHO},outcome="failed",pod="r"}}': "0+10x60",
            f'paceline_router_remote_prefill_total{{{WHO},outcome="ok",pod="r"}}': "0+90x60",
            f'paceline_router_remote_prefill_total{{{WHO},outcome="skipped",pod="r"}}': "0+900x60",
        },
        [("40m", firing("PacelineRemotePrefillFails"), 1)],
    ),
    "answers that repeat themselves are a ticket": (
        {
            f'vllm:request_success_total{{{POD},finished_reason="repetition"}}': "0+5x60",
            f'vllm:request_success_total{{{POD},finished_reason="stop"}}': "0+95x60",
        },
        [("40m", firing("PacelineOutputRepeats"), 1)],
    ),
    "answers that the routers find repeating are a ticket, too": (
        {
            f'paceline_router_output_signs_total{{{WHO},pod="r",sign="one-token"}}': "0+3x60",
            f'paceline_router_output_answers_total{{{WHO},pod="r"}}': "0+100x60",
        },
        [("40m", firing("PacelineOutputRepeats"), 1)],
    ),
    "an engine that stands out again and again is a ticket, one that did once is none": (
        {
            f'paceline_router_engine_suspended{{{SUSPENDED},engine="a"}}': "1x2 _x2 1x2 _x3 1x2 _x3 1x4",
            f'paceline_router_engine_suspended{{{SUSPENDED},engine="b"}}': "1x1 _x40",
            f'paceline_router_engine_suspended{{{WHO},pod="r",engine="c",reason="none"}}': "0x40",
        },
        [("12m", firing("PacelineEngineStandsOut"), 1), ("40m", firing("PacelineEngineStandsOut"), None)],
    ),
    "an engine that takes its time starts; one that does not end it is a ticket": (
        {f'paceline_engine_state{{{POD},state="starting"}}': "1x90"},
        [("30m", firing("PacelineEngineStuckStarting"), None), ("40m", firing("PacelineEngineStuckStarting"), 1)],
    ),
    "an engine that fails its checks is a ticket": (
        {f"paceline_engine_healthy{{{POD}}}": "1x10 0x30"},
        [("9m", firing("PacelineEngineUnhealthy"), None), ("20m", firing("PacelineEngineUnhealthy"), 1)],
    ),
    "full KV caches of a role are a ticket, one full engine of two is none": (
        {
            f'vllm:kv_cache_usage_perc{{{POD},paceline_dev_role="decode"}}': "0.99x60",
            f'vllm:kv_cache_usage_perc{{{WHO},pod="engine-1",paceline_dev_role="decode"}}': "0.5x30 0.99x30",
        },
        [("29m", firing("PacelineKvPressure"), None), ("50m", firing("PacelineKvPressure"), 1)],
    ),
    "preemptions are KV pressure too": (
        {f'vllm:num_preemptions_total{{{POD},paceline_dev_role="decode"}}': "0+30x60"},
        [("30m", firing("PacelineKvPressure"), 1)],
    ),
    "a cache that a router has not heard of is a ticket": (
        {f'paceline_router_cache_events_staleness_seconds{{{WHO},pod="r",engine="engine-0"}}': "0x5 90x30"},
        [("5m", firing("PacelineIndexStale"), None), ("20m", firing("PacelineIndexStale"), 1)],
    ),
    "a tenant that a router has no key of is a ticket": (
        {
            f'paceline_router_tenant_keys{{{WHO},pod="r",tenant="a"}}': "1x5 0x30",
            f'paceline_router_tenant_keys{{{WHO},pod="r",tenant="b"}}': "2x40",
        },
        [("5m", firing("PacelineTenantWithoutKey"), None), ("20m", firing("PacelineTenantWithoutKey"), 1)],
    ),
    "a router that lost its fleet pages": (
        {f'paceline_router_fleet_stale_seconds{{{WHO},pod="r"}}': "0x5 90x30"},
        [("5m", firing("PacelineFleetStale"), None), ("15m", firing("PacelineFleetStale"), 1)],
    ),
    "operators of which none leads page": (
        {
            'paceline_operator_is_leader{namespace="paceline-system",pod="o-0"}': "1x10 0x30",
            'paceline_operator_is_leader{namespace="paceline-system",pod="o-1"}': "0x40",
        },
        [("10m", firing("PacelineOperatorLeaderless"), None), ("25m", firing("PacelineOperatorLeaderless"), 1)],
    ),
    "passes that fail are a ticket": (
        {
            'paceline_operator_reconciles_total{namespace="s",outcome="failed"}': "0+8x60",
            'paceline_operator_reconciles_total{namespace="s",outcome="done"}': "0+2x60",
        },
        [("50m", firing("PacelineReconcileErrors"), 1)],
    ),
    "a planner that is blind pages": (
        {f"paceline_planner_metrics_available{{{PLANNED}}}": "1x5 0x30"},
        [("5m", firing("PacelinePlannerBlind"), None), ("20m", firing("PacelinePlannerBlind"), 1)],
    ),
    "work beyond every allowed engine is a ticket": (
        {f"paceline_planner_shed_ratio{{{PLANNED}}}": "0x5 0.2x60"},
        [("5m", firing("PacelineFeasibilityCeiling"), None), ("40m", firing("PacelineFeasibilityCeiling"), 1)],
    ),
}

LONG_SCENARIOS: dict[str, tuple[dict[str, str], list[tuple[str, str, float | None]]]] = {
    "a slow leak pages after hours": (
        traffic((42, 600, 400)),
        [("66m", firing("PacelineSloBurn6h"), None), ("390m", firing("PacelineSloBurn6h"), 1)],
    ),
    "a budget that just lasts is no ticket": (
        traffic((500, 960, 40)),
        [("4890m", BURNING, None)],
    ),
    "three days a little over the budget are a ticket, and wake nobody": (
        traffic((500, 930, 70)),
        [("4890m", firing("PacelineSloBurn3d"), 1), ("4890m", firing("PacelineSloBurn6h"), None)],
    ),
    "a day at four times the budget is a ticket": (
        traffic((300, 800, 200)),
        [("2880m", firing("PacelineSloBurn1d"), 1), ("2880m", firing("PacelineSloBurn6h"), None)],
    ),
    "answers that have grown threefold are a ticket": (
        {
            f'paceline_router_answers_total{{{WHO},prompt="16"}}': "0+100x170",
            f'paceline_router_answer_tokens_total{{{WHO},prompt="16"}}': "0+10000x150 1530000+30000x20",
        },
        [("1470m", firing("PacelineOutputGrows"), None), ("1560m", firing("PacelineOutputGrows"), 1)],
    ),
}
"""With a sample in ten minutes and a look in thirty: days take long to walk through."""


def alerts() -> list[dict[str, Any]]:
    return [rule for group in rule_groups() for rule in group["rules"] if "alert" in rule]


def test_promtool_takes_every_rule() -> None:
    rules = sum(len(group["rules"]) for group in rule_groups())
    assert f"{rules} rules found" in check_rules()


def test_the_rules_do_what_each_hour_asks_for() -> None:
    """One run for all; promtool shows the expression that is not as it should be."""
    done = run_rule_tests(*(unit(series, checks) for series, checks in SCENARIOS.values()))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_do_what_each_day_asks_for() -> None:
    units = [unit(series, checks, interval="10m") for series, checks in LONG_SCENARIOS.values()]
    done = run_rule_tests(*units, every="30m")
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_fails_when_a_rule_does_not_do_that() -> None:
    """Or a scenario that never ran would pass."""
    done = run_rule_tests(unit(traffic((20, 100, 0)), [("20m", firing("PacelineSloBurn1h"), 1)]))
    assert done.returncode != 0
    assert "PacelineSloBurn1h" in done.stdout + done.stderr


def test_every_alert_has_a_scenario_in_which_it_fires() -> None:
    checks = [check for _, checks in (SCENARIOS | LONG_SCENARIOS).values() for check in checks]
    fires = {expression for _, expression, value in checks if value == 1}
    assert {firing(rule["alert"]) for rule in alerts()} <= fires


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_leads_to_a_page_that_knows_it(rule: dict[str, Any]) -> None:
    page = (ROOT / rule["annotations"]["runbook"]).read_text()
    assert rule["alert"] in page
    for part in ("## What it means", "## Look", "## Mend"):
        assert part in page
    assert rule["labels"]["severity"] in {"page", "ticket"}


def test_burn_rates_are_those_of_the_workbook() -> None:
    """Share of a 30-day budget that is gone when the alert's long window is full of just that burn."""
    gone = {long: round(factor * seconds / (30 * 86_400), 3) for factor, long, seconds, *_ in BURNS}
    assert gone == {"1h": 0.02, "6h": 0.05, "1d": 0.1, "3d": 0.1}
