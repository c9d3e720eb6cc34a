"""Decisions of the planner as lines across a dashboard."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as model

from paceline.observability.dashboards.panels import SOURCE


def decisions() -> dashboard.AnnotationQuery:
    """A line wherever the planner changed something."""
    changed = 'paceline_planner_actions_total{namespace="$namespace",deployment="$deployment"}'
    return (
        dashboard.AnnotationQuery()
        .name("Decisions")
        .datasource(model.DataSourceRef(type_val="prometheus", uid=SOURCE))
        .enable(True)
        .icon_color("purple")
        .expr(f"sum by (action) (increase({changed}[1m])) > 0")
    )
