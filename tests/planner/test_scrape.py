"""Routers' own pages as a source: what is kept, what is forgotten, and what is said of those that do not answer."""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

from paceline.api.conditions import Reason
from paceline.clock import VirtualClock
from paceline.planner.scrape import RouterScraper
from paceline.planner.source import Router
from tests.planner.pages import FakeRouter, text_of
from tests.planner.servers import serving


def router_at(url: str, name: str = "r") -> Router:
    where = urlsplit(url)
    return Router(name, where.hostname or "", where.port or 0)


async def test_pages_of_the_window_are_kept_and_one_from_before_it() -> None:
    fake, clock = FakeRouter(), VirtualClock(epoch=1000.0)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text_of(fake.samples()))

    async with serving(answer) as url:
        source = RouterScraper(clock)
        for _ in range(10):
            reading = await source.read("ns", "d", [router_at(url)], seconds=30.0)
            fake.arrive(100)
            clock.advance(10.0)
        assert [page.at for page in reading.pages["r"]] == [1060.0, 1070.0, 1080.0, 1090.0]
        assert [sum(page.counters.uncached) for page in reading.pages["r"]] == [6, 7, 8, 9]
        source.forget("ns", "d")
        assert len((await source.read("ns", "d", [router_at(url)], seconds=30.0)).pages["r"]) == 1
        await source.close()


async def test_pages_from_before_the_clock_was_put_back_are_forgotten() -> None:
    clocks = [VirtualClock(epoch=9000.0), VirtualClock(epoch=1000.0)]

    class Moved(VirtualClock):
        def wall(self) -> float:
            return clocks[0].wall()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text_of(FakeRouter().samples()))

    async with serving(answer) as url:
        source = RouterScraper(Moved())
        for _ in range(3):
            clocks[0].advance(10.0)
            await source.read("ns", "d", [router_at(url)], seconds=30.0)
        clocks.pop(0)
        reading = await source.read("ns", "d", [router_at(url)], seconds=30.0)
        await source.close()
    assert [page.at for page in reading.pages["r"]] == [1000.0]


async def test_a_router_that_does_not_answer_is_a_fault_and_the_others_are_read() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text_of(FakeRouter().samples()))

    async with serving(answer) as url:
        source = RouterScraper(VirtualClock(epoch=1000.0))
        reading = await source.read("ns", "d", [router_at(url), Router("gone", "127.0.0.1", 9)], seconds=30.0)
        await source.close()
    assert set(reading.pages) == {"r"}
    assert reading.faults["gone"].reason is Reason.METRICS_UNREACHABLE


async def test_a_page_that_cannot_be_right_is_a_fault() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="paceline_router_queued_requests many\n")

    async with serving(answer) as url:
        source = RouterScraper(VirtualClock(epoch=1000.0))
        reading = await source.read("ns", "d", [router_at(url)], seconds=30.0)
        await source.close()
    assert reading.faults["r"].reason is Reason.METRICS_INVALID
    assert reading.pages == {}


async def test_a_page_without_end_is_cut_off() -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"# " + b"x" * (17 * 1024 * 1024))

    async with serving(answer) as url:
        source = RouterScraper(VirtualClock(epoch=1000.0))
        reading = await source.read("ns", "d", [router_at(url)], seconds=30.0)
        await source.close()
    assert "more than" in reading.faults["r"].message
