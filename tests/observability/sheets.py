"""Draws what the panels of a dashboard would show, all on one page, from the panels' own queries."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.observability.boards import board, panels, resolved
from tests.observability.live import Prometheus

MOST_LINES = 8
COLUMNS = 3
UNITS = {"percentunit": "share", "s": "s", "reqps": "1/s", "ops": "1/s", "currencyUSD": "$", "bytes": "bytes"}


@dataclass(frozen=True)
class Look:
    """Somebody who looks at the last ``seconds`` of a deployment."""

    prometheus: Prometheus
    chosen: Mapping[str, str]
    seconds: float

    def range(self, expression: str, *, step: float) -> list[dict[str, Any]]:
        """Series of a panel's query."""
        return self.prometheus.range(resolved(expression, self.chosen), self.seconds, step=step)


def draw(axes: Axes, panel: dict[str, Any], look: Look) -> None:
    """One panel: a heat map, or lines."""
    unit = UNITS.get(panel["fieldConfig"]["defaults"]["unit"])
    axes.set_title(f"{panel['title']}, {unit}" if unit else panel["title"], fontsize=8, loc="left")
    axes.tick_params(labelsize=6)
    if panel["type"] == "heatmap":
        heat(axes, panel, look)
        return
    lines = 0
    for target in panel["targets"]:
        for series in look.range(target["expr"], step=2)[: MOST_LINES - lines]:
            now = float(series["values"][-1][0])
            points = [(float(at) - now, float(value)) for at, value in series["values"] if math.isfinite(float(value))]
            legend = legend_of(target.get("legendFormat", ""), series["metric"])
            if points:
                axes.plot(*zip(*points, strict=True), linewidth=1, label=legend)
                lines += 1
    axes.set_ylim(bottom=0)
    if any(not str(line.get_label()).startswith("_") for line in axes.get_lines()) and panel["type"] != "stat":
        axes.legend(fontsize=5, frameon=False, loc="upper left", ncols=2)


def legend_of(pattern: str, labels: dict[str, str]) -> str:
    """With the values of the series' labels."""
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), pattern)


def heat(axes: Axes, panel: dict[str, Any], look: Look) -> None:
    series = look.range(panel["targets"][0]["expr"], step=5)
    bounds = sorted((float(one["metric"]["le"]), one) for one in series if one["metric"]["le"] != "+Inf")
    times = sorted({float(at) for one in series for at, _ in one["values"]})
    below = [0.0] * len(times)
    rows = []
    for _, one in bounds:
        values = {float(at): float(value) for at, value in one["values"]}
        row = [values.get(at, 0.0) for at in times]
        rows.append([max(0.0, now - before) for now, before in zip(row, below, strict=True)])
        below = row
    ages = [at - times[-1] for at in times]
    axes.pcolormesh(ages, [bound for bound, _ in bounds], rows, cmap="Oranges", shading="nearest")
    axes.set_yscale("log")


def sheet(name: str, look: Look, file: Path) -> None:
    """All panels of one dashboard on a page."""
    shown = panels(name)
    rows = math.ceil(len(shown) / COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(13, 1.9 * rows), layout="constrained", squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, shown, strict=False):
        draw(axes, panel, look)
    figure.suptitle(board(name)["title"], fontsize=11)
    figure.savefig(file, dpi=90)
    plt.close(figure)
