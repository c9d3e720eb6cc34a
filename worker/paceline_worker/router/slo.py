"""Whether requests met the objective of their class, and which that is: what burn-rate alerts and dashboards go by.

Every request that was offered counts, but those that were wrong themselves or that their client gave up: a request that
was refused or failed has missed its objective. A stream meets it with both its TTFT and its mean ITL; an answer that is
no stream has neither, and meets it by being there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from paceline.api.wire import Objective, RouterConfig
from paceline_worker.router.metrics import PREFIX

NO_CLASS: Final = "default"
"""Label of requests that name no class."""
MISSED_BY: Final = frozenset({"rejected", "upstream_error", "broken", "internal_error"})
"""Outcomes of requests, as ``requests_total`` has them, that have missed every objective."""
_OBJECTIVES: Final[tuple[tuple[str, str, Callable[[Objective], float]], ...]] = (
    ("slo_target_ratio", "Share of requests that is to meet the objective.", lambda one: one.target_percent / 100),
    ("slo_ttft_seconds", "Objective for the time to first token.", lambda one: one.ttft_milliseconds / 1000),
    ("slo_itl_seconds", "Objective for the mean time between tokens.", lambda one: one.itl_milliseconds / 1000),
)


class SloCounts(Collector):
    """Counters by class. Classes come from the configuration, so they are few and known at start."""

    def __init__(self, config: RouterConfig) -> None:
        self._objectives: dict[str, Objective] = {NO_CLASS: config.objective}
        self._objectives |= {entry.name: entry.objective for entry in config.classes}
        self._counts = {(name, met): 0 for name in self._objectives for met in (True, False)}

    def streamed(self, request_class: str, *, ttft_seconds: float, itl_seconds: float | None) -> None:
        """A stream ended well; ``itl_seconds`` is None where it had fewer than two tokens."""
        objective = self._objectives[request_class]
        met = ttft_seconds * 1000 <= objective.ttft_milliseconds
        if itl_seconds is not None:
            met = met and itl_seconds * 1000 <= objective.itl_milliseconds
        self._counts[request_class, met] += 1

    def answered(self, request_class: str) -> None:
        """An answer that is no stream went out."""
        self._counts[request_class, True] += 1

    def ended(self, request_class: str, outcome: str) -> None:
        """A request ended with ``outcome``; those that ended well have been counted already."""
        if outcome in MISSED_BY:
            self._counts[request_class, False] += 1

    def summary(self) -> list[dict[str, object]]:
        """Objectives and counts by class, for the live page."""
        return [
            {
                "name": name,
                "ttftSeconds": objective.ttft_milliseconds / 1000,
                "itlSeconds": objective.itl_milliseconds / 1000,
                "target": objective.target_percent / 100,
                "met": self._counts[name, True],
                "missed": self._counts[name, False],
            }
            for name, objective in self._objectives.items()
        ]

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families as they are now."""
        counted = CounterMetricFamily(
            PREFIX + "slo_requests",
            "Requests by whether they met the objective of their class.",
            labels=("class", "met"),
        )
        for (name, met), count in self._counts.items():
            counted.add_metric((name, "yes" if met else "no"), count)
        yield counted
        for suffix, text, value in _OBJECTIVES:
            family = GaugeMetricFamily(PREFIX + suffix, text, labels=("class",))
            for name, objective in self._objectives.items():
                family.add_metric((name,), value(objective))
            yield family
