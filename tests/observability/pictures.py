"""Pictures for the documentation: ``python -m tests.observability.pictures`` runs the quickstart under load for a few
minutes, asks a real Prometheus for what every panel shows, and draws it; and photographs the live page.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from tests.observability.browser import browser
from tests.observability.live import Prometheus, local_run, scraping
from tests.observability.test_dashboards import board, panels, resolved
from tests.programs import ROOT

FOLDER = ROOT / "docs" / "operations" / "img"
BOARDS = ("sla", "deployment", "router", "engines", "tenants")
"""Those whose every number comes from the run: it has no operator and no page of a planner."""
LOAD = ("--speed", "2", "--load", "conversation", "--load-minutes", "60", "--rate-scale", "0.25")
MOST_LINES = 8
COLUMNS = 3
UNITS = {"percentunit": "share", "s": "s", "reqps": "1/s", "ops": "1/s", "currencyUSD": "$", "bytes": "bytes"}


def draw(axes: Axes, panel: dict[str, Any], prometheus: Prometheus, seconds: float) -> None:
    """One panel: a heat map, or lines."""
    unit = UNITS.get(panel["fieldConfig"]["defaults"]["unit"])
    axes.set_title(f"{panel['title']}, {unit}" if unit else panel["title"], fontsize=8, loc="left")
    axes.tick_params(labelsize=6)
    if panel["type"] == "heatmap":
        heat(axes, panel, prometheus, seconds)
        return
    lines = 0
    for target in panel["targets"]:
        for series in prometheus.range(resolved(target["expr"]), seconds, step=2)[: MOST_LINES - lines]:
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


def heat(axes: Axes, panel: dict[str, Any], prometheus: Prometheus, seconds: float) -> None:
    series = prometheus.range(resolved(panel["targets"][0]["expr"]), seconds, step=5)
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


def sheet(name: str, prometheus: Prometheus, seconds: float, file: Path) -> None:
    """All panels of one dashboard on a page."""
    shown = panels(name)
    rows = math.ceil(len(shown) / COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(13, 1.9 * rows), layout="constrained", squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_axis_off()
    for axes, panel in zip(grid.flat, shown, strict=False):
        draw(axes, panel, prometheus, seconds)
    figure.suptitle(board(name)["title"], fontsize=11)
    figure.savefig(file, dpi=90)
    plt.close(figure)


async def photograph(url: str) -> None:
    async with browser() as tab:
        await tab.go(url)
        await tab.until("document.body?.dataset.ready === 'yes'")
        await tab.until("document.querySelector('#ttft').dataset.last !== 'nothing yet'")
        for dark in (False, True):
            picture = await tab.photograph(height=820, dark=dark)
            name = "live-dark.png" if dark else "live.png"
            await asyncio.to_thread((FOLDER / name).write_bytes, picture)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=150, help="how long the run is looked at")
    seconds = parser.parse_args().seconds
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with local_run(folder, *LOAD) as targets, scraping(folder, targets, {}) as prometheus:
            answered = "sum(paceline_router_slo_requests_total) > 5"
            prometheus.until("requests are answered", lambda: prometheus.query(answered))
            time.sleep(seconds)
            scraped = prometheus._ask("/api/v1/targets")["activeTargets"]
            (admin,) = [one["scrapeUrl"] for one in scraped if "router" in one["labels"].get("pod", "")]
            asyncio.run(photograph(admin.replace("/metrics", "/live")))
            for one in BOARDS:
                sheet(one, prometheus, seconds, FOLDER / f"dashboard-{one}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
