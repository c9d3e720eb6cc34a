"""What the planner says of its decisions on its page."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from paceline.api.wire import Role
from paceline.planner.metrics import PlannerMetrics
from paceline.policy.scaling.decision import Decision, Explanation
from paceline.policy.scaling.observation import Counts

COUNTS = Counts(prefill=2, decode=1)


def told(metrics: PlannerMetrics, **why: Any) -> None:
    decision = Decision(at=0, before=COUNTS, roles=COUNTS, engines=COUNTS, explanation=Explanation(**why))
    planner = SimpleNamespace(settings=SimpleNamespace(pools=(Role.PREFILL,)), counts={Role.PREFILL: 2})
    step = SimpleNamespace(blind=None, decision=decision, observation=SimpleNamespace(attainment=None))
    metrics.decided("default", "one", planner, step)  # type: ignore[arg-type]


def expected(metrics: PlannerMetrics, engines: str) -> float | None:
    labels = {"namespace": "default", "deployment": "one", "engines": engines}
    return metrics.registry.get_sample_value("paceline_planner_expected_attainment_ratio", labels)


def test_a_decision_leaves_what_it_leads_to_beside_what_would_have_been_without_it() -> None:
    metrics = PlannerMetrics()
    told(metrics)
    assert expected(metrics, "decided") is None
    told(metrics, attainment_planned=0.97, attainment_if_held=0.4)
    told(metrics)
    assert (expected(metrics, "decided"), expected(metrics, "held")) == (0.97, 0.4)
    metrics.forget("default", "one")
    assert expected(metrics, "held") is None
