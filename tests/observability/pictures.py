"""Pictures for the documentation: ``python -m tests.observability.pictures`` runs the quickstart under load for a few
minutes, asks a real Prometheus for what every panel shows, and draws it; and photographs the live page.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.observability.boards import LOCAL, values
from tests.observability.browser import browser
from tests.observability.live import DEPLOYMENT, NAMESPACE, local_run, scraping
from tests.observability.sheets import Look, sheet
from tests.programs import ROOT

FOLDER = ROOT / "docs" / "operations" / "img"
BOARDS = tuple(name for name in LOCAL if name != "classes")
"""Those whose panels look unlike each other: *Classes* is *SLA overview* once more, by class."""
LOAD = ("--speed", "2", "--load", "conversation", "--load-minutes", "60", "--rate-scale", "0.25")


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
        with local_run(folder, *LOAD) as targets, scraping(folder, targets) as prometheus:
            answered = "sum(paceline_router_slo_requests_total) > 5"
            prometheus.until("requests are answered", lambda: prometheus.query(answered))
            time.sleep(seconds)
            scraped = prometheus._ask("/api/v1/targets")["activeTargets"]
            (admin,) = [one["scrapeUrl"] for one in scraped if "router" in one["labels"].get("pod", "")]
            asyncio.run(photograph(admin.replace("/metrics", "/live")))
            look = Look(prometheus, values(NAMESPACE, DEPLOYMENT), seconds)
            for one in BOARDS:
                sheet(one, look, FOLDER / f"dashboard-{one}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
