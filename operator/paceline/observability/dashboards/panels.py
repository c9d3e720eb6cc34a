"""The few kinds of panel that the dashboards are made of, so that they look and behave alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Query = tuple[str, str]
"""Expression and legend."""
Limits = Sequence[tuple[float | None, str]]
"""Values from which a colour holds; None is the lowest."""

SOURCE: Final = "${datasource}"
WHO: Final = 'namespace="$namespace",paceline_dev_deployment="$deployment"'
"""Labels of everything that belongs to the chosen deployment."""
RATE: Final = "$__rate_interval"
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"
PLAIN: Final[Limits] = ((None, BLUE),)
OR_NONE: Final = " or on () vector(0)"
"""For what is not there until it happens: no panel is empty only because all is well."""
THIRD, HALF = 8, 12
ROW_HEIGHT: Final = 8


def chart(
    title: str, about: str, unit: str, *queries: Query, limits: Limits = (), stacked: bool = False, width: int = THIRD
) -> timeseries.Panel:
    """Lines over time. ``limits`` are drawn as lines."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .datasource(_source())
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .span(width)
        .height(ROW_HEIGHT)
        .thresholds(_thresholds(limits or PLAIN))
        .legend(
            common.VizLegendOptions().display_mode(options.LegendDisplayMode.LIST).placement(_BOTTOM).show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
    )
    if limits:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(options.GraphTresholdsStyleMode.DASHED))
    if stacked:
        panel.stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
    for number, (expression, legend) in enumerate(queries):
        panel.with_target(_query(expression, number).legend_format(legend))
    return panel


def parts(title: str, about: str, unit: str, expression: str, label: str, *, width: int = THIRD) -> timeseries.Panel:
    """What a whole is made of over time, by the values of a label."""
    return chart(title, about, unit, (expression, f"{{{{{label}}}}}"), stacked=True, width=width)


def number(title: str, about: str, unit: str, expression: str, *, limits: Limits = PLAIN, width: int = 4) -> stat.Panel:
    """One value, large, with its past behind it."""
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .datasource(_source())
        .unit(unit)
        .span(width)
        .height(4)
        .thresholds(_thresholds(limits))
        .color_mode(options.BigValueColorMode.VALUE)
        .graph_mode(options.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_query(expression, 0))
    )


def heat(title: str, about: str, unit: str, histogram: str, *, width: int = HALF) -> heatmap.Panel:
    """How values of a histogram are spread, over time. ``histogram``: name and selector without ``_bucket``."""
    name, _, selector = histogram.partition("{")
    expression = f"sum by (le) (increase({name}_bucket{{{selector}[{RATE}]))"
    return (
        heatmap.Panel()
        .title(title)
        .description(about)
        .datasource(_source())
        .unit(unit)
        .span(width)
        .height(ROW_HEIGHT)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(32))
        .thresholds(_thresholds(PLAIN))
        .with_target(_query(expression, 0).format(PromQueryFormat.HEATMAP).legend_format("{{le}}"))
    )


def quantiles(histogram: str, *shares: float, by: str = "") -> list[Query]:
    """Quantiles of a histogram over the panel's own interval."""
    name, _, selector = histogram.partition("{")
    group = ", ".join(filter(None, ("le", by)))
    rate = f"sum by ({group}) (rate({name}_bucket{{{selector}[{RATE}]))"
    legend = f" {{{{{by}}}}}" if by else ""
    return [(f"histogram_quantile({share:g}, {rate})", f"p{share * 100:g}{legend}") for share in shares]


def share(good: str, every: str) -> str:
    """A ratio that is no value at all where nothing was counted."""
    return f"({good}) / (({every}) > 0)"


def board(uid: str, title: str, about: str) -> dashboard.Dashboard:
    """An empty dashboard with the variables that all have."""
    deployments = 'label_values(paceline_router_slo_target_ratio{namespace="$namespace"}, paceline_dev_deployment)'
    return (
        bare_board(uid, title, about)
        .with_variable(_variable("namespace", "Namespace", "label_values(paceline_router_slo_target_ratio, namespace)"))
        .with_variable(_variable("deployment", "Deployment", deployments))
    )


def bare_board(uid: str, title: str, about: str) -> dashboard.Dashboard:
    """An empty dashboard of something that is not one deployment."""
    link = dashboard.DashboardLink("Paceline").type(model.DashboardLinkType.DASHBOARDS)
    return (
        dashboard.Dashboard(f"Paceline / {title}")
        .uid(f"paceline-{uid}")
        .description(about)
        .tags(["paceline"])
        .timezone("browser")
        .time("now-3h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(link.as_dropdown(True).tags(["paceline"]).keep_time(True).include_vars(True))
        .with_variable(dashboard.DatasourceVariable("datasource").label("Source").type("prometheus"))
    )


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_source())
        .query(query)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )


def _query(expression: str, number: int) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).ref_id(chr(ord("A") + number)).range()


def _source() -> model.DataSourceRef:
    return model.DataSourceRef(type_val="prometheus", uid=SOURCE)


def _thresholds(limits: Limits) -> dashboard.ThresholdsConfig:
    steps = [model.Threshold(value=value, color=colour) for value, colour in limits]
    if limits[0][0] is not None:
        steps.insert(0, model.Threshold(value=None, color=GREEN))
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps)


_BOTTOM: Final = options.LegendPlacement.BOTTOM
