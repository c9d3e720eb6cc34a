"""The catalogue of metrics, read from ``metrics.toml``. Rules, dashboards and the reference go by it."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

COMPONENTS: Final = ("router", "engine", "operator", "planner", "vllm", "emulator")
HISTOGRAM_SUFFIXES: Final = ("_bucket", "_sum", "_count")


@dataclass(frozen=True, slots=True)
class Metric:
    """One family as Prometheus sees it; a counter's name ends in ``_total``."""

    component: str
    name: str
    type: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Names under which its samples are stored."""
        return tuple(self.name + suffix for suffix in HISTOGRAM_SUFFIXES) if self.type == "histogram" else (self.name,)


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All metrics, and what their labels mean."""

    metrics: tuple[Metric, ...]
    labels: Mapping[str, str]

    def of(self, component: str) -> Iterator[Metric]:
        """Those that one kind of process exports."""
        return (metric for metric in self.metrics if metric.component == component)


def load_catalogue() -> Catalogue:
    """Read the file of this package."""
    document: dict[str, Any] = tomllib.loads(resources.files(__package__).joinpath("metrics.toml").read_text("utf-8"))
    metrics = tuple(
        Metric(component, entry["name"], entry["type"], entry["help"], tuple(entry.get("labels", ())))
        for component in COMPONENTS
        for entry in document[component]
    )
    return Catalogue(metrics, document["labels"])
