"""The picture of a comparison: for each policy, one below the other, engines by role with every decision marked, the
queue, and both latencies against their objectives.

Drawn with matplotlib's Agg canvas, so no display is needed. Colours are those of Okabe and Ito, which people with any
common kind of colour blindness can tell apart; roles differ in line style too.
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
from paceline.simulator.simulation import Run

BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
VERMILION: Final = "#D55E00"
GREY: Final = "#999999"
BINS: Final = 60
"""Points of a curve of quantiles."""
LEAST_IN_BIN: Final = 5
"""A quantile of fewer requests would be noise."""
_MARKS: Final = {
    Change.START: ("^", GREEN, "start"),
    Change.DRAIN: ("v", VERMILION, "drain"),
    Change.FLIP: ("D", BLUE, "role change"),
    Change.FAILED: ("x", "black", "failed start"),
}


def draw(path: Path, runs: Sequence[Run], *, trace: str) -> None:
    """Write a PNG of at least one run. Raises ConfigError if the file can't be written."""
    rows = len(runs)
    figure = Figure(figsize=(19, 1.2 + 3.1 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 4, sharex=True, squeeze=False, width_ratios=[1.25, 1, 1, 1])
    for axes, run in zip(grid, runs, strict=True):
        engines, queue, ttft, itl = axes
        objective, score = run.settings.objective, run.score
        _engines(engines, run)
        _queue(queue, run)
        _latency(ttft, "TTFT (s)", run.workload.arrivals, score.ttft, objective.ttft_seconds)
        _latency(itl, "ITL (ms)", run.workload.arrivals, 1000 * score.itl, 1000 * objective.itl_seconds)
    for axes in grid[-1]:
        axes.set_xlabel("minutes")
    # One scale for all policies, or the eye compares what can't be compared.
    for column in (0, 2, 3):
        top = (1.15 if column == 0 else 1.0) * max(axes.get_ylim()[1] for axes in grid[:, column])
        for axes in grid[:, column]:
            axes.set_ylim(0, top)
    for row in grid:
        for axes in (row[0], row[2]):
            axes.legend(loc="upper left", fontsize=7, ncols=2)
    figure.suptitle(trace, fontsize=12)
    try:
        figure.savefig(path, format="png", dpi=100)
    except OSError as error:
        raise ConfigError(f"--plot: can't write {path}: {error.strerror}.") from None


def _engines(axes: Axes, run: Run) -> None:
    report = policy_report(run)
    minutes = [sample.at / 60 for sample in run.samples]
    axes.step(minutes, [s.prefill.ready for s in run.samples], where="post", color=BLUE, label="prefill")
    axes.step(minutes, [s.decode.ready for s in run.samples], where="post", color=ORANGE, ls="--", label="decode")
    shown = [run.samples[min(len(minutes) - 1, int(np.searchsorted(minutes, m.at / 60)))] for m in run.marks]
    for change, (marker, color, label) in _MARKS.items():
        points = [
            (mark.at / 60, sample.prefill.ready + sample.decode.ready + 0.5)
            for mark, sample in zip(run.marks, shown, strict=True)
            if mark.change is change
        ]
        if points:
            times, heights = zip(*points, strict=True)
            axes.scatter(times, heights, marker=marker, s=14, color=color, label=label, zorder=3)
    load = axes.twinx()
    rate, edges = np.histogram(run.workload.arrivals / 60, bins=BINS)
    load.stairs(rate / (60 * np.diff(edges)), edges, color=GREY, alpha=0.35, fill=True)
    load.set_ylabel("requests/s", color=GREY, fontsize=8)
    load.set_ylim(0, 2.5 * float((rate / (60 * np.diff(edges))).max()))
    axes.set_zorder(load.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("engines")
    axes.set_title(
        f"{run.policy}: {100 * report.feasible_attainment:.1f}% of feasible, {report.gpu_hours:.1f} GPU-hours, "
        f"{report.goodput_per_gpu_hour:.0f} good requests per GPU-hour",
        loc="left",
        fontsize=9,
    )


def _queue(axes: Axes, run: Run) -> None:
    minutes = [sample.at / 60 for sample in run.samples]
    axes.plot(minutes, [s.prefill.waiting for s in run.samples], color=BLUE, lw=1, label="waiting for prefill")
    axes.plot(minutes, [s.decode.running for s in run.samples], color=ORANGE, lw=1, ls="--", label="decoding")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("requests")
    axes.legend(loc="upper left", fontsize=7)


def _latency(
    axes: Axes, name: str, arrivals: NDArray[np.float64], values: NDArray[np.float64], objective: float
) -> None:
    edges = np.linspace(0, max(float(arrivals[-1]), 1e-9), BINS + 1)
    place = np.clip(np.digitize(arrivals, edges) - 1, 0, BINS - 1)
    middles = (edges[:-1] + edges[1:]) / 120
    for quantile, color, style in ((0.5, BLUE, "-"), (0.9, ORANGE, "--")):
        points = []
        for index in range(BINS):
            there = values[place == index]
            there = there[~np.isnan(there)]
            points.append(float(np.quantile(there, quantile)) if len(there) >= LEAST_IN_BIN else np.nan)
        axes.plot(middles, points, color=color, ls=style, lw=1.2, label=f"p{100 * quantile:.0f}")
    axes.axhline(objective, color=VERMILION, lw=1, ls=":", label="objective")
    axes.set_ylim(0, 3 * objective)
    axes.set_ylabel(name)
