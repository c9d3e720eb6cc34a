"""The picture of a comparison: the load on top, then a row for each policy with engines by role and every decision
marked, what waits and decodes, and both latencies against their objectives.

Drawn with matplotlib's Agg canvas, so no display is needed. Colours are those of Okabe and Ito, which people with any
common kind of colour blindness can tell apart; curves of the same panel differ in line style too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from paceline.errors import ConfigError
from paceline.simulator.cluster import Change
from paceline.simulator.report import policy_report
from paceline.simulator.score import feasible
from paceline.simulator.simulation import Run
from paceline.simulator.workload import Workload

BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
VERMILION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
INK: Final = "#444444"
BINS: Final = 60
"""Points of a curve of rates or of quantiles."""
LEAST_IN_BIN: Final = 5
"""A quantile of fewer requests would be noise."""
HIGHEST: Final = 3.0
"""Latencies beyond this many times the objective are cut off."""
LOWEST: Final = 1.5
"""A panel reaches at least this many times the objective, so that the line has room above it."""
_MARKS: Final = {
    Change.START: ("^", GREEN, "start"),
    Change.DRAIN: ("v", VERMILION, "drain"),
    Change.FLIP: ("D", PURPLE, "role change"),
    Change.FAILED: ("x", "black", "failed start"),
}


def draw(path: Path, runs: Sequence[Run], *, trace: str) -> None:
    """Write a PNG of at least one run. Raises ConfigError if the file can't be written."""
    rows = len(runs)
    figure = Figure(figsize=(16, 2.6 + 2.7 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows + 1, 4, height_ratios=[0.7, *[1] * rows], width_ratios=[1.5, 1, 1, 1])
    load = figure.add_subplot(grid[0, :])
    _load(load, runs[0].workload)
    panels = [[figure.add_subplot(grid[row + 1, column], sharex=load) for column in range(4)] for row in range(rows)]
    for (engines, queue, ttft, itl), run in zip(panels, runs, strict=True):
        objective, score = run.settings.objective, run.score
        held = feasible(run.workload, run.settings.profile, objective)
        arrivals = run.workload.arrivals
        _engines(engines, run)
        _queue(queue, run)
        _latency(ttft, arrivals[held], score.ttft[held], objective.ttft_seconds)
        _latency(itl, arrivals[held], 1000 * score.itl[held], 1000 * objective.itl_seconds)
    _alike(panels)
    for axes, title in zip(
        panels[0][1:], ("requests", "TTFT of feasible requests, s", "time between tokens, ms"), strict=True
    ):
        axes.set_title(title, loc="left", fontsize=10, color=INK)
    for axes in panels[-1]:
        axes.set_xlabel("minutes", fontsize=9)
    figure.suptitle(trace, fontsize=12, x=0.01, ha="left")
    try:
        figure.savefig(path, format="png", dpi=100)
    except OSError as error:
        raise ConfigError(f"--plot: can't write {path}: {error.strerror}.") from None


def _alike(panels: Sequence[Sequence[Axes]]) -> None:
    """One scale for all policies, or the eye compares what can't be compared; and one legend a column."""
    for column in zip(*panels, strict=True):
        top = max(axes.get_ylim()[1] for axes in column)
        for axes in column:
            axes.set_ylim(0, top)
            _plain(axes)
        named = {
            label: handle for axes in column for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        column[0].legend(
            named.values(), named, loc="upper left", fontsize=8, ncols=3, frameon=False, borderaxespad=0.2,
            columnspacing=1.2,
        )  # fmt: skip


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, axis="y", color="#eeeeee", lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=INK)


def _load(axes: Axes, workload: Workload) -> None:
    """Tokens, not requests: it is their ratio that decides how many engines each role needs."""
    prompts, outputs = workload.sizes()
    minutes = workload.arrivals / 60
    for sizes, color, style, name in ((prompts, BLUE, "-", "prompt"), (outputs, ORANGE, "--", "output")):
        tokens, edges = np.histogram(minutes, bins=BINS, weights=sizes)
        rate = tokens / (60 * np.maximum(np.diff(edges), 1e-9))
        axes.plot((edges[:-1] + edges[1:]) / 2, rate / max(rate.mean(), 1e-9), color=color, ls=style, lw=1.5)
        label = f"{name} tokens, mean {rate.mean():,.0f}/s"
        axes.plot([], [], color=color, ls=style, lw=1.5, label=label)
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    axes.set_xlim(0, 1.01 * float(minutes[-1]) or 1.0)
    axes.set_title("load, as a multiple of its mean", loc="left", fontsize=10, color=INK)
    axes.legend(loc="upper left", fontsize=8, ncols=2, frameon=False)
    _plain(axes)


def _engines(axes: Axes, run: Run) -> None:
    report = policy_report(run)
    minutes = [sample.at / 60 for sample in run.samples]
    decode = np.array([sample.decode.ready for sample in run.samples])
    if run.settings.aggregated:
        axes.fill_between(minutes, decode, step="post", color=BLUE, alpha=0.75, lw=0, label="both roles")
        total = decode
    else:
        total = decode + np.array([sample.prefill.ready for sample in run.samples])
        axes.fill_between(minutes, decode, step="post", color=ORANGE, alpha=0.75, lw=0, label="decode")
        axes.fill_between(minutes, decode, total, step="post", color=BLUE, alpha=0.75, lw=0, label="prefill")
    # Above what is ready just before and after: for a moment a change takes an engine away.
    places = [int(np.searchsorted(minutes, mark.at / 60)) for mark in run.marks]
    for change, (marker, color, label) in _MARKS.items():
        points = [
            (mark.at / 60, total[max(0, place - 2) : place + 3].max(initial=0) + 0.6)
            for mark, place in zip(run.marks, places, strict=True)
            if mark.change is change
        ]
        if points:
            times, heights = zip(*points, strict=True)
            axes.scatter(times, heights, marker=marker, s=22, color=color, label=label, zorder=3, linewidths=0.8)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    # Room for the marks, and for the legend above them.
    axes.set_ylim(0, 1.35 * (float(total.max()) + 1))
    axes.set_title(
        f"{run.policy}: {100 * report.feasible_attainment:.1f}% of feasible in time, {report.gpu_hours:.1f} GPU-hours",
        loc="left",
        fontsize=10,
        fontweight="bold",
    )
    axes.set_ylabel("engines ready", fontsize=9, color=INK)


def _queue(axes: Axes, run: Run) -> None:
    minutes = [sample.at / 60 for sample in run.samples]
    axes.plot(minutes, [s.decode.running for s in run.samples], color=ORANGE, lw=1, ls="--", label="decoding")
    axes.plot(minutes, [s.prefill.waiting for s in run.samples], color=BLUE, lw=1, label="waiting")
    axes.set_ylim(0, 1.2 * max(1.0, axes.get_ylim()[1]))


def _latency(axes: Axes, arrivals: NDArray[np.float64], values: NDArray[np.float64], objective: float) -> None:
    highest = 0.0
    if len(arrivals):
        edges = np.linspace(0, max(float(arrivals[-1]), 1e-9), BINS + 1)
        place = np.clip(np.digitize(arrivals, edges) - 1, 0, BINS - 1)
        middles = (edges[:-1] + edges[1:]) / 120
        for quantile, color, style in ((0.5, BLUE, "-"), (0.95, ORANGE, "--")):
            points = []
            for index in range(BINS):
                there = values[place == index]
                there = there[~np.isnan(there)]
                points.append(float(np.quantile(there, quantile)) if len(there) >= LEAST_IN_BIN else np.nan)
            axes.plot(middles, points, color=color, ls=style, lw=1.2, label=f"p{100 * quantile:.0f}")
            highest = max(highest, float(np.nanmax(points)) if not np.isnan(points).all() else 0.0)
    axes.axhline(objective, color=VERMILION, lw=1.2, ls=":", label="objective")
    axes.set_ylim(0, min(HIGHEST * objective, max(LOWEST * objective, 1.2 * highest)))
