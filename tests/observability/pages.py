"""Pages of metrics for tests: all families of a page, and pages on which every one of them has a value."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from paceline.controller.metrics import OperatorMetrics
from paceline.planner.metrics import PlannerMetrics

EXAMPLES = {
    "limit": "TTFT",
    "when": "seen",
    "role": "prefill",
    "action": "flip",
    "outcome": "changed",
    "part": "read",
    "engines": "decided",
}


@dataclass(frozen=True)
class Family:
    """What a page says of one metric."""

    type: str
    help: str
    labels: frozenset[str]


def families(page: str) -> dict[str, Family]:
    """Families by the names that the catalogue uses."""
    found = {}
    for family in text_string_to_metric_families(page):
        kind = "gauge" if family.type == "info" else family.type
        name = f"{family.name}_total" if kind == "counter" else family.name
        if name.endswith("_created"):
            continue
        labels = frozenset(label for sample in family.samples for label in sample.labels if label != "le")
        found[name] = Family(kind, family.documentation, labels)
    return found


def operator_page_of_a_busy_day(metrics: OperatorMetrics) -> None:
    """Have an operator count one of everything that it counts."""
    for verb, code in (("get", 200), ("apply", 200), ("patch", 409), ("watch", 0)):
        metrics.api_request(verb, "deployments.apps", code)
    metrics.reconciled("done", 0.02)
    metrics.reconciled("failed", 0.4)
    metrics.watch_restarted("pods")
    metrics.queue_length.set(1)
    metrics.cached_objects.labels("pods").set(8)
    metrics.is_leader.set(1)


def planner_page_of_a_busy_day(metrics: PlannerMetrics) -> None:
    """Have a planner say everything that it says of one deployment."""
    who = {"namespace": "default", "deployment": "quickstart"}
    for family in metrics.registry.collect():
        collector = metrics.registry._names_to_collectors[family.name]
        names = [name for name in collector._labelnames if name not in who]
        own = {name: EXAMPLES[name] for name in names}
        labels = {name: (who | own)[name] for name in collector._labelnames}
        child = collector.labels(**labels) if labels else collector
        getattr(child, {"gauge": "set", "counter": "inc", "histogram": "observe"}[family.type])(1)
