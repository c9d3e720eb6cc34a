"""The picture of a plan: what each fleet costs, and the latency that it buys. A line joins the best that each
amount of money buys.

Drawn with matplotlib's Agg canvas, so no display is needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from paceline.api.v1alpha1 import PoolMode
from paceline.errors import ConfigError
from paceline.planning.search import Plan

BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
VERMILION: Final = "#D55E00"
GREY: Final = "#888888"
_LOOK: Final = {
    PoolMode.DISAGGREGATED: ("o", BLUE, "prefill and decode apart"),
    PoolMode.AGGREGATED: ("s", ORANGE, "on the same engines"),
}
SHOWN: Final = 3.0
"""Latencies beyond this many times the objective are drawn at the edge."""


def draw(path: Path, plan: Plan, *, title: str) -> None:
    """Write a PNG. Raises ConfigError if the file can't be written."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True)
    objective = plan.objective
    ttft = 1000 * objective.ttft_seconds
    _panel(left, plan, [min(fleet.ttft_ms, SHOWN * ttft) for fleet in plan.fleets], ttft, "TTFT")
    itl = 1000 * objective.itl_seconds
    _panel(right, plan, [min(fleet.itl_ms, SHOWN * itl) for fleet in plan.fleets], itl, "ITL")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    try:
        figure.savefig(path, format="png", dpi=100)
    except OSError as error:
        raise ConfigError(f"--plot: can't write {path}: {error.strerror}.") from None


def _panel(axes: Axes, plan: Plan, heights: Sequence[float], objective: float, name: str) -> None:
    height_of = {id(fleet): height for fleet, height in zip(plan.fleets, heights, strict=True)}
    for mode, (marker, color, label) in _LOOK.items():
        for good, filled in ((True, color), (False, "none")):
            some = [fleet for fleet in plan.fleets if fleet.mode is mode and fleet.good is good]
            if some:
                axes.scatter(
                    [fleet.gpu_hours for fleet in some],
                    [height_of[id(fleet)] for fleet in some],
                    marker=marker,
                    s=34,
                    facecolors=filled,
                    edgecolors=color,
                    zorder=3,
                    label=label if good else f"{label}, misses the objective",
                )
    costs: list[float] = []
    least: list[float] = []
    for fleet in sorted((fleet for fleet in plan.fleets if fleet.good), key=lambda fleet: fleet.gpu_hours):
        costs.append(fleet.gpu_hours)
        least.append(min([height_of[id(fleet)], *least[-1:]]))
    if costs:
        axes.step(costs, least, where="post", color=GREY, lw=1, zorder=2, label="best that the money buys")
    best = plan.best
    if best is not None:
        height = min(best.ttft_ms if name == "TTFT" else best.itl_ms, SHOWN * objective)
        axes.annotate(
            "recommended", (best.gpu_hours, height), xytext=(10, -16), textcoords="offset points", fontsize=9,
            color=VERMILION,
        )  # fmt: skip
        axes.scatter([best.gpu_hours], [height], marker="o", s=130, facecolors="none", edgecolors=VERMILION, zorder=4)
    axes.axhline(objective, color=VERMILION, lw=1, ls=":", label="objective")
    axes.set_ylim(0, 1.05 * min(SHOWN * objective, max([*heights, objective])) if heights else None)
    axes.set_xlim(left=0)
    axes.set_xlabel("GPU-hours on the trace")
    share = 100 * plan.objective.target
    axes.set_ylabel(f"{name} at p{share:.0f} (ms)" if math.isfinite(share) else name)
    axes.grid(visible=True, color="#eeeeee")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
