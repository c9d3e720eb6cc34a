"""The picture of a load: what was offered, what queued, and both latencies against their objectives, over time.

Drawn with matplotlib's Agg canvas, so no display is needed. Colours are those of Okabe and Ito, which people with any
common kind of colour blindness can tell apart; roles differ in line style too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from paceline.api.v1alpha1 import Objective
from paceline.api.wire import Role
from paceline.errors import ConfigError
from paceline.local.load import LoadResult, RequestResult
from paceline.local.monitor import Sample
from paceline.local.report import SloReport
from paceline.policy.quantiles import reached

BLUE: Final = "#0072B2"
ORANGE: Final = "#E69F00"
GREEN: Final = "#009E73"
VERMILION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
GREY: Final = "#999999"
_ROLE_STYLE: Final = {Role.PREFILL: (BLUE, "-"), Role.DECODE: (ORANGE, "--"), Role.BOTH: (GREEN, ":")}
BINS: Final = 40
"""Points of a curve of quantiles at most."""
LEAST_IN_BIN: Final = 5
"""A quantile of fewer requests would be noise."""


def draw(
    path: Path,
    *,
    report: SloReport,
    result: LoadResult,
    samples: Sequence[Sample],
    objective: Objective,
    started: float,
) -> None:
    """Write a PNG. ``started`` is when the load began, on the clock of the samples.

    Raises ConfigError if the file can't be written.
    """
    figure = Figure(figsize=(11, 11), layout="constrained")
    FigureCanvasAgg(figure)
    load, queue, ttft, itl, roles = figure.subplots(5, 1, sharex=True, height_ratios=[2, 2, 3, 3, 1.3])
    speed = report.speed
    during = [sample for sample in samples if started <= sample.at <= started + result.seconds]
    times = [(sample.at - started) * speed for sample in during]
    _load(load, result.requests, report)
    _queue(queue, times, during)
    _latency(
        ttft, "TTFT", result.requests, objective.ttft_milliseconds, report.attainment.ttft, speed, lambda r: r.ttft
    )
    _latency(itl, "ITL", result.requests, objective.itl_milliseconds, report.attainment.itl, speed, lambda r: r.itl)
    _roles(roles, times, during)
    roles.set_xlabel("seconds of the engines' time")
    roles.set_xlim(0, max(report.seconds, 1e-9))
    title = f"{report.deployment}: {report.attainment.both:.1f}% of {report.offered} requests within both objectives"
    figure.suptitle(f"{title}, {report.failed} failed", fontsize=13)
    load.set_title(f"{report.load}\n{report.engines}", fontsize=9, loc="left")
    try:
        figure.savefig(path, format="png", dpi=110)
    except OSError as error:
        raise ConfigError(f"--plot: can't write {path}: {error.strerror}.") from None


def _load(axes: Axes, requests: Sequence[RequestResult], report: SloReport) -> None:
    width = report.seconds / BINS or 1.0
    edges = [index * width for index in range(BINS + 1)]
    offered = [request.scheduled * report.speed for request in requests]
    failed = [request.scheduled * report.speed for request in requests if request.error is not None]
    weights = [1 / width]
    axes.hist(offered, edges, weights=weights * len(offered), color=BLUE, alpha=0.75, label="offered")
    if failed:
        axes.hist(failed, edges, weights=weights * len(failed), color=VERMILION, label="failed")
    axes.set_ylabel("requests/s")
    tokens = axes.twinx()
    sums: defaultdict[int, int] = defaultdict(int)
    for request in requests:
        sums[min(BINS - 1, int(request.scheduled * report.speed / width))] += request.request.input_tokens
    tokens.plot(
        [edge + width / 2 for edge in edges[:-1]],
        [sums[index] / width for index in range(BINS)],
        color=ORANGE,
        drawstyle="steps-mid",
        label="prompt tokens/s (right)",
    )
    tokens.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:,.0f}k"))
    tokens.set_ylim(bottom=0)
    handles = [axes.get_legend_handles_labels(), tokens.get_legend_handles_labels()]
    _legend(axes, handles[0][0] + handles[1][0], handles[0][1] + handles[1][1])


def _queue(axes: Axes, times: Sequence[float], samples: Sequence[Sample]) -> None:
    for role, (colour, style) in _ROLE_STYLE.items():
        running = [
            sum(e.metrics.running for e in sample.engines if e.role is role and e.metrics is not None)
            for sample in samples
        ]
        if any(running):
            axes.plot(times, running, style, color=colour, label=f"running, {role.value}")
    waiting = [sum(e.metrics.waiting for e in sample.engines if e.metrics is not None) for sample in samples]
    axes.plot(times, waiting, color=VERMILION, label="waiting in engines")
    queued = [sample.router.queued if sample.router is not None else 0 for sample in samples]
    axes.plot(times, queued, "-.", color=PURPLE, label="queued in the router")
    axes.set_ylabel("requests")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, *axes.get_legend_handles_labels())


def _latency(
    axes: Axes,
    name: str,
    requests: Sequence[RequestResult],
    objective: int,
    attainment: float,
    speed: float,
    value: Callable[[RequestResult], float | None],
) -> None:
    points = [
        (request.scheduled * speed, found * speed * 1000)
        for request in requests
        if request.error is None and (found := value(request)) is not None
    ]
    axes.set_ylabel(f"{name}, ms")
    axes.set_yscale("log")
    axes.axhline(objective, color=VERMILION, linestyle="--", linewidth=1.2, label=f"objective, {objective:,} ms")
    within = [point for point in points if point[1] <= objective]
    beyond = [point for point in points if point[1] > objective]
    for group, colour, marker in ((within, GREY, "."), (beyond, VERMILION, "x")):
        axes.scatter([p[0] for p in group], [p[1] for p in group], s=14, color=colour, marker=marker, linewidths=0.8)
    for q, colour, style in ((0.5, BLUE, "-"), (0.95, ORANGE, "-")):
        curve = _binned(points, q)
        if len(curve) > 1:
            axes.plot([c[0] for c in curve], [c[1] for c in curve], style, color=colour, label=f"p{q * 100:.0f}")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    _legend(axes, *axes.get_legend_handles_labels())
    axes.set_title(f"{attainment:.1f}% within", fontsize=9, loc="left")


def _binned(points: Sequence[tuple[float, float]], q: float) -> list[tuple[float, float]]:
    """A quantile over time: bins of equal counts, so that a quiet stretch has few points rather than noisy ones."""
    size = max(LEAST_IN_BIN, -(-len(points) // BINS))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(p[0] for p in group) / len(group), reached([p[1] for p in group], q))
        for group in groups
        if len(group) >= LEAST_IN_BIN
    ]


def _roles(axes: Axes, times: Sequence[float], samples: Sequence[Sample]) -> None:
    for role, (colour, style) in _ROLE_STYLE.items():
        counts = [sample.with_role(role) for sample in samples]
        if any(counts):
            axes.step(times, counts, style, where="post", color=colour, label=role.value)
    axes.set_ylabel("ready engines")
    axes.set_ylim(bottom=0)
    axes.margins(y=0.15)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, *axes.get_legend_handles_labels())


def _legend(axes: Axes, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    """Above the axes, where it covers no data."""
    if handles:
        axes.legend(
            handles,
            labels,
            loc="lower right",
            bbox_to_anchor=(1.0, 0.97),
            ncols=len(labels),
            fontsize=8,
            frameon=False,
        )
