"""The committed dashboards as Grafana would use them: panels, queries, and which of them a Prometheus can't answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from paceline.observability.dashboards import DASHBOARDS
from tests.observability.live import Prometheus
from tests.programs import ROOT

CONTROL_PLANE = ("planner", "operator")
"""Those that show processes which only a cluster has; tests/kube runs their queries."""
LOCAL = tuple(name for name in DASHBOARDS if name not in CONTROL_PLANE)
NO_NUMBER = {"NaN", "+Inf", "-Inf"}


class Shown(NamedTuple):
    """One query of one panel."""

    board: str
    panel: dict[str, Any]
    expression: str


def values(namespace: str, deployment: str) -> dict[str, str]:
    """What a person who looks at that deployment has chosen."""
    chosen = {"namespace": namespace, "deployment": deployment, "datasource": "prometheus", "price": "4"}
    return {**chosen, "__rate_interval": "20s"}


def board(name: str) -> dict[str, Any]:
    """A dashboard as committed."""
    found: dict[str, Any] = json.loads((ROOT / "helm" / "paceline" / "dashboards" / f"{name}.json").read_text())
    return found


def panels(name: str) -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in board(name)["panels"] if panel["type"] != "row"]


def queries(names: Iterable[str] = tuple(DASHBOARDS)) -> Iterator[Shown]:
    """Every query of every panel."""
    for name in names:
        for panel in panels(name):
            for target in panel["targets"]:
                yield Shown(name, panel, target["expr"])


def resolved(expression: str, chosen: Mapping[str, str]) -> str:
    """With the values that Grafana would put in."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: chosen[found[1]], expression)


def without_data(prometheus: Prometheus, names: Iterable[str], chosen: Mapping[str, str]) -> list[str]:
    """Queries of the last minute that answer with no number at all."""
    empty = []
    for shown in queries(names):
        expression = resolved(shown.expression, chosen)
        series = prometheus.range(expression)
        if not any(value not in NO_NUMBER for one in series for _, value in one["values"]):
            empty.append(f"{shown.board}: {shown.panel['title']}: {expression}")
    return empty


def annotations(names: Iterable[str]) -> list[str]:
    """Queries of what is marked in the panels."""
    return [entry["expr"] for name in names for entry in board(name).get("annotations", {}).get("list", ())]


def unresolved(prometheus: Prometheus, names: Iterable[str], chosen: Mapping[str, str]) -> list[str]:
    """Variables that offer something else than the value chosen."""
    wrong = []
    for name in names:
        for variable in board(name)["templating"]["list"]:
            if variable["type"] != "query":
                assert variable["type"] in {"datasource", "textbox"}
                continue
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"])
            assert found, variable
            offered = prometheus.label_values(resolved(found[1], chosen), found[2])
            if chosen[variable["name"]] not in offered:
                wrong.append(f"{name}: {variable['name']}: {offered}")
    return wrong
