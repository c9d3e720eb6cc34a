"""The planner and a real Prometheus: its raw samples are what routers counted, and its absence is survived."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from paceline.api.conditions import Reason
from paceline.clock import WallClock
from paceline.planner.observe import Seen, observe
from paceline.planner.prometheus import Prometheus
from paceline.planner.source import Router
from paceline.policy.scaling.observation import Measured
from tests.kube.client import Kube
from tests.kube.kill_anywhere import allow_lease
from tests.kube.kubelet import Kubelet
from tests.kube.operators import running
from tests.kube.planned import planned, seen
from tests.kube.pods import ProcessSettings
from tests.kube.prometheus import prometheus
from tests.planner.pages import FakeRouter, text_of
from tests.planner.servers import serving
from tests.processes import free_ports

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]

NAME = "small-router-7d4b9c-x2k9p"


class Setting:
    """A router that a test counts with, a Prometheus that scrapes it, and the planner's look at that."""

    def __init__(self, url: str, router: FakeRouter) -> None:
        self.router = router
        self.shown: Callable[[], str] = lambda: text_of(self.router.samples())
        self.source = Prometheus(url, WallClock())
        self.routers = [Router(NAME, "127.0.0.1", 8080)]

    async def look(self, *, stale_seconds: float = 45.0) -> Seen:
        reading = await self.source.read("ns", "small", self.routers, seconds=120.0)
        names = [router.name for router in self.routers]
        now = WallClock().wall()
        return observe(
            reading, (), names, now=now, window_seconds=120.0, measured=Measured(), stale_seconds=stale_seconds
        )

    async def until(self, what: Callable[[Seen], object], **how: float) -> Seen:
        async with asyncio.timeout(60):
            while not what(found := await self.look(**how)):  # noqa: ASYNC110 - Prometheus sets no event
                await asyncio.sleep(0.3)
        return found

    async def scraped(self) -> None:
        """Wait until Prometheus has seen what the router shows now."""
        shown = self.router.page(0.0).counters

        async with asyncio.timeout(60):
            while True:
                reading = await self.source.read("ns", "small", self.routers, seconds=120.0)
                pages = reading.pages.get(NAME, ())
                if len(pages) > 1 and pages[-1].counters == shown:
                    return
                await asyncio.sleep(0.3)


@asynccontextmanager
async def setting(folder: Path, *, jobs: int = 1) -> AsyncIterator[Setting]:
    holder: list[Setting] = []

    async def page(_: web.Request) -> web.Response:
        return web.Response(text=holder[0].shown(), content_type="text/plain") if holder else web.Response(status=503)

    async with serving(page) as address:
        target = (urlsplit(address).netloc, {"namespace": "ns", "pod": NAME})
        with prometheus(folder, {f"job-{number}": [target] for number in range(jobs)}) as url:
            one = Setting(url, FakeRouter())
            holder.append(one)
            try:
                yield one
            finally:
                await one.source.close()


def requests(found: Seen) -> int:
    return sum(cell.count for interval in found.observation.arrivals for cell in interval.cells)


async def test_what_routers_count_is_what_the_planner_sees(tmp_path: Path) -> None:
    async with setting(tmp_path) as one:
        await one.scraped()
        one.router.arrive(1000, 200, times=7)
        one.router.answer(1200, 90, times=5, itl=False)
        await one.scraped()
        found = await one.look()
        assert found.blind is None
        assert requests(found) == 7
        attained = found.observation.attainment
        assert attained is not None
        assert (attained.requests, attained.ttft, attained.itl) == (5, 1.0, 0.0)
        # The router restarts: its counters begin anew.
        one.router = FakeRouter()
        one.router.arrive(1000, times=3)
        await one.scraped()
        assert requests(await one.look()) == 10


async def test_a_router_that_two_jobs_scrape_is_counted_once(tmp_path: Path) -> None:
    async with setting(tmp_path, jobs=2) as one:
        await one.scraped()
        one.router.arrive(1000, times=7)
        await one.scraped()
        assert requests(await one.look()) == 7


async def test_wrong_stale_and_missing_metrics_are_named_and_it_recovers(tmp_path: Path) -> None:
    async with setting(tmp_path) as one:
        await one.scraped()
        good = one.shown
        for wrong in (math.nan, -1.0):
            one.shown = lambda wrong=wrong: good().replace(  # type: ignore[misc]
                "paceline_router_queued_prefill_seconds 0.0", f"paceline_router_queued_prefill_seconds {wrong}"
            )
            found = await one.until(lambda found: found.blind)
            assert found.blind is not None
            assert found.blind.reason is Reason.METRICS_INVALID
            one.shown = good
            await one.until(lambda found: found.blind is None)
        one.routers.append(Router("small-router-7d4b9c-other", "127.0.0.1", 8080))
        found = await one.look()
        assert found.blind is not None
        assert (found.blind.reason, "other" in found.blind.message) == (Reason.METRICS_MISSING, True)
        one.routers.pop()
        one.shown = lambda: "nothing of ours 1\n"
        found = await one.until(lambda found: found.blind, stale_seconds=5.0)
        assert found.blind is not None
        assert found.blind.reason is Reason.METRICS_STALE
        one.shown = good
        await one.until(lambda found: found.blind is None)


def test_an_operator_holds_while_prometheus_is_away_and_goes_on_when_it_comes(
    kube: Kube, kubelet: Kubelet, operator_account: Path, namespace: str, tmp_path: Path
) -> None:
    kubelet.run_processes(namespace, ProcessSettings(speed=1))
    allow_lease(kube, namespace)
    (port,) = free_ports(1)
    flags = ("--namespace", namespace, "--lease-namespace", namespace, "--prometheus-url", f"http://127.0.0.1:{port}")
    scene = planned(kube, namespace)
    with running(operator_account, tmp_path / "operator.log", *flags, identity="planner"):
        scene.apply().until_ready(seconds=180)
        found = scene.until_condition("MetricsAvailable", "False", "MetricsUnreachable", seconds=180)
        assert "Prometheus can't be asked" in found["message"]
        pod = scene.pods("router")[0]
        target = (f"{scene.router()}:8080", {"namespace": namespace, "pod": pod["metadata"]["name"]})
        with prometheus(tmp_path / "prometheus", {"routers": [target]}, port=port):
            seen(scene)
        scene.until_condition("MetricsAvailable", "False", "MetricsUnreachable", seconds=180)
        assert dict(scene.roles()) == {"prefill": 1, "decode": 1}
        assert scene.complete().status_code == 200
