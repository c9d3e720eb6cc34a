"""What the planner says of itself in Prometheus's format. One object a process; each deployment has a few series."""

from __future__ import annotations

import math
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from paceline.planner.deployment import DeploymentPlanner, Step
from paceline.policy.scaling.decision import Explanation, Limit

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
WHO: Final = ("namespace", "deployment")


class PlannerMetrics:
    """All metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"paceline_planner_{name}", text, [*WHO, *labels], registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"paceline_planner_{name}", text, [*WHO, *labels], registry=self.registry)

        self._sees = gauge("metrics_available", "1 while the planner sees what it decides on, 0 while it holds")
        self._desired = gauge("desired_engines", "Engines that are asked for", "role")
        self._recommended = gauge("recommended_engines", "Engines that the planner would have", "role")
        self._attainment = gauge("attainment_ratio", "Share of requests within both limits in the demand window")
        self._shed = gauge("shed_ratio", "Share of the prefill work that no allowed number of engines can do")
        self._feasible = gauge("feasible_ratio", "Share of requests that any number of engines could serve in time")
        self._expected = gauge(
            "expected_attainment_ratio",
            "In time by the model, of feasible requests: as prefill engines were last changed, and had they been left",
            "engines",
        )
        self._bound = gauge("bound", "1 for what bound the last decision", "limit")
        self._demanded = gauge(
            "demanded_engines", "Engines that each limit demands; +Inf: no number is enough", "role", "limit"
        )
        self._load = gauge(
            "prefill_load_engines", "Engines that prefill would keep busy: seen, and at the horizons", "when"
        )
        self._decisions = counter("decisions_total", "Decisions by what came of them", "outcome")
        self._actions = counter("actions_total", "Role changes, starts and removals that were decided on", "action")
        self._seconds = Histogram(
            "paceline_planner_step_seconds",
            "Time of one look and decision, by part",
            ["part"],
            buckets=SECONDS,
            registry=self.registry,
        )

    def decided(self, namespace: str, name: str, planner: DeploymentPlanner, step: Step) -> None:
        """Take note of one decision."""
        who = (namespace, name)
        self._sees.labels(*who).set(int(step.blind is None))
        for role in planner.settings.pools:
            self._desired.labels(*who, role.value).set(planner.counts.get(role, 0))
            self._recommended.labels(*who, role.value).set(step.decision.engines.of(role))
        attained = step.observation.attainment
        if attained is not None:
            self._attainment.labels(*who).set(attained.both)
        self._shed.labels(*who).set(step.decision.shed)
        self._explained(who, step.decision.explanation)
        changes = step.decision.changes_something
        self._decisions.labels(*who, "held" if step.blind else "changed" if changes else "kept").inc()
        if step.blind is None:
            self._actions.labels(*who, "flip").inc(len(step.decision.flips))
            self._actions.labels(*who, "start").inc(sum(start.count for start in step.decision.starts))
            self._actions.labels(*who, "remove").inc(len(step.decision.drains))

    def _explained(self, who: tuple[str, str], why: Explanation) -> None:
        self._feasible.labels(*who).set(why.feasible)
        if why.attainment_planned is not None and why.attainment_if_held is not None:
            self._expected.labels(*who, "decided").set(why.attainment_planned)
            self._expected.labels(*who, "held").set(why.attainment_if_held)
        for limit in Limit:
            self._bound.labels(*who, limit.value).set(int(limit is why.bound_by))
        # What a limit demanded once and does not demand now must not stay.
        self._demanded.remove_by_labels({"namespace": who[0], "deployment": who[1]})
        for demand in why.demands:
            engines = math.inf if demand.engines is None else demand.engines
            self._demanded.labels(*who, demand.role.value, demand.limit.value).set(engines)
        load = why.seen.prefill_load
        self._load.labels(*who, "seen").set(load)
        self._load.labels(*who, "near").set(load * why.outlook.prefill_near)
        self._load.labels(*who, "far").set(load * why.outlook.prefill_far)

    def took(self, *, reading: float, deciding: float) -> None:
        """Seconds of one step."""
        self._seconds.labels("read").observe(reading)
        self._seconds.labels("decide").observe(deciding)

    def forget(self, namespace: str, name: str) -> None:
        """The deployment is gone, or is not planned for any more."""
        who = {"namespace": namespace, "deployment": name}
        for metric in (
            self._sees, self._desired, self._recommended, self._attainment, self._shed, self._feasible,
            self._expected, self._bound, self._demanded, self._load, self._decisions, self._actions,
        ):  # fmt: skip
            metric.remove_by_labels(who)
