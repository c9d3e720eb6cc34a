"""Reading pages of metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector


def series(page: str, name: str) -> list[tuple[dict[str, str], float]]:
    """Labels and value of every series of that name."""
    # Parsing is slow, and few lines of a page are asked for.
    lines = "\n".join(line for line in page.splitlines() if line.startswith(name))
    return [
        (dict(sample.labels), float(sample.value))
        for family in text_string_to_metric_families(lines)
        for sample in family.samples
        if sample.name == name
    ]


def total(page: str, name: str, **labels: str) -> float:
    """Sum of the series of that name whose labels are among those given; 0 where there is none."""
    return sum(value for have, value in series(page, name) if labels.items() <= have.items())


def collected(collector: Collector, prefix: str) -> dict[tuple[str, ...], float]:
    """All that a collector shows: values by name, without ``prefix``, and labels."""
    registry = CollectorRegistry()
    registry.register(collector)
    return {
        (sample.name.removeprefix(prefix), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
