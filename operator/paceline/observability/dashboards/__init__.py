"""Grafana dashboards, made with Grafana's own SDK and committed as JSON in the chart. The SDK is needed to make
them, not to use them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from grafana_foundation_sdk.builders import dashboard as builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from paceline.observability.dashboards.classes import classes
from paceline.observability.dashboards.deployment import deployment
from paceline.observability.dashboards.engines import engines
from paceline.observability.dashboards.operator import operator
from paceline.observability.dashboards.planner import planner
from paceline.observability.dashboards.router import router
from paceline.observability.dashboards.sla import sla_overview
from paceline.observability.dashboards.tenants import tenants

DASHBOARDS: Final[dict[str, Callable[[], builder.Dashboard]]] = {
    "sla": sla_overview,
    "deployment": deployment,
    "planner": planner,
    "router": router,
    "engines": engines,
    "classes": classes,
    "tenants": tenants,
    "operator": operator,
}
"""By the name of their file."""


def render_dashboard(name: str) -> str:
    """One dashboard as JSON, byte for byte the same on every run."""
    return JSONEncoder(sort_keys=True, indent=1).encode(DASHBOARDS[name]().build()) + "\n"
