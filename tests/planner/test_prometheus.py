"""Prometheus as a source: raw samples become pages, and everything that can't be trusted is said, never raised."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
from aiohttp import web

from paceline.api.conditions import Reason
from paceline.clock import VirtualClock
from paceline.errors import ConfigError
from paceline.planner.pages import Sample
from paceline.planner.prometheus import Prometheus, Series, make_reading
from paceline.planner.source import Reading, Router
from tests.planner.pages import FakeRouter
from tests.planner.servers import serving

NOW = 1_700_000_000.0
ROUTERS = [Router("small-router-5d8f-abcde", "10.0.0.1", 8080)]
TARGET = {"namespace": "ns", "pod": ROUTERS[0].name, "job": "ns/router", "instance": "10.0.0.1:8080"}


def series_of(pages: Sequence[tuple[float, Sequence[Sample]]], **target: str) -> list[Series]:
    """What Prometheus holds after scraping these pages."""
    found: dict[tuple[str, ...], Series] = {}
    for at, samples in pages:
        for name, labels, value in samples:
            key = (name, *labels.values())
            one = found.setdefault(key, Series({"__name__": name, **labels, **TARGET, **target}, []))
            one.values.append((at, repr(value)))
    return list(found.values())


def two_pages() -> tuple[FakeRouter, list[tuple[float, Sequence[Sample]]]]:
    router = FakeRouter()
    first = router.samples()
    router.arrive(1000, 500, times=4)
    return router, [(NOW - 20.0, first), (NOW - 10.0, router.samples())]


def test_samples_of_one_scrape_are_one_page() -> None:
    router, pages = two_pages()
    found = make_reading(series_of(pages)).pages[ROUTERS[0].name]
    assert [page.at for page in found] == [NOW - 20.0, NOW - 10.0]
    assert found[1] == router.page(NOW - 10.0)


def test_a_router_that_is_scraped_twice_is_counted_once_and_the_newer_scrape_is_taken() -> None:
    router, pages = two_pages()
    twice = series_of(pages) + series_of([(at - 5.0, samples) for at, samples in pages], job="another")
    found = make_reading(twice).pages[ROUTERS[0].name]
    assert [page.at for page in found] == [NOW - 20.0, NOW - 10.0]
    assert sum(found[-1].counters.uncached) == 4
    assert router.uncached_tokens == 4000


def test_a_page_that_cannot_be_right_is_left_out_and_named_while_it_is_the_newest() -> None:
    _, pages = two_pages()
    bad = [one._replace(value=math.nan) if one.name.endswith("queued_requests") else one for one in pages[1][1]]
    found = make_reading(series_of([pages[0], (NOW - 10.0, bad)]))
    assert [page.at for page in found.pages[ROUTERS[0].name]] == [NOW - 20.0]
    assert found.faults[ROUTERS[0].name].reason is Reason.METRICS_INVALID
    mended = make_reading(series_of([pages[0], (NOW - 15.0, bad), pages[1]]))
    assert mended.faults == {}
    assert len(mended.pages[ROUTERS[0].name]) == 2


def test_text_that_is_no_number_refuses_the_page() -> None:
    _, pages = two_pages()
    found = series_of(pages)
    found[0].values[-1] = (NOW - 10.0, "many")
    assert make_reading(found).faults[ROUTERS[0].name].reason is Reason.METRICS_INVALID


async def ask(url: str, *, now: float = NOW, token: str | None = None) -> Reading:
    source = Prometheus(url, VirtualClock(epoch=now), token=token)
    try:
        return await source.read("ns", "small", ROUTERS, seconds=300.0)
    finally:
        await source.close()


def answer_of(query: str, found: list[Series], *, now: float = NOW, **more: Any) -> web.Response:
    if query == "time()":
        data: dict[str, Any] = {"resultType": "scalar", "result": [now, str(now)]}
    else:
        rows = [{"metric": one.metric, "values": one.values} for one in found]
        data = {"resultType": "matrix", "result": rows}
    return web.json_response({"status": "success", "data": data, **more})


async def test_one_query_asks_for_the_routers_of_one_deployment_and_no_others() -> None:
    _, pages = two_pages()
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        query = str((await request.post())["query"])
        asked.append(query)
        assert request.headers["authorization"] == "Bearer secret"
        return answer_of(query, series_of(pages))

    async with serving(answer) as url:
        reading = await ask(url, token="secret")
    assert reading.blind is None
    assert len(reading.pages[ROUTERS[0].name]) == 2
    (query,) = [one for one in asked if one != "time()"]
    assert 'namespace="ns"' in query
    assert "small\\\\-router-[a-z0-9]+-[a-z0-9]{5}" in query.replace("small-router", "small\\\\-router")
    assert query.endswith("[300s]")


async def test_an_answer_that_comes_after_some_trouble_is_taken() -> None:
    tries: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        query = str((await request.post())["query"])
        tries.append(query)
        if tries.count(query) < 3:
            return web.Response(status=503)
        return answer_of(query, [])

    async with serving(answer) as url:
        reading = await ask(url)
    assert reading.blind is None
    assert len(tries) == 6


@pytest.mark.parametrize(
    ("body", "status", "reason", "words"),
    [
        (b"", 503, Reason.METRICS_UNREACHABLE, "answers 503"),
        (b"<html>", 200, Reason.METRICS_INVALID, "no query result"),
        (b'{"status":"success","data":{"result":[{"metric":1}]}}', 200, Reason.METRICS_INVALID, "no query result"),
        (b'{"status":"error","error":"too many samples"}', 422, Reason.METRICS_UNREACHABLE, "too many samples"),
        (b'{"status":"success","data":{"result":[]},"warnings":["a store is away"]}', 200, Reason.METRICS_INVALID,
         "a store is away"),
        (b'{"status":"success","data":' + b"[" * 1100 + b"]" * 1100 + b"}", 200, Reason.METRICS_INVALID,
         "no query result"),
    ],
    ids=["away", "a page of HTML", "another shape", "refused", "in part", "deep"],
)  # fmt: skip
async def test_what_is_no_whole_answer_is_named(body: bytes, status: int, reason: Reason, words: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, status=status, content_type="application/json")

    async with serving(answer) as url:
        reading = await ask(url)
    assert reading.blind is not None
    assert reading.blind.reason is reason
    assert words in reading.blind.message


async def test_nobody_there_is_named() -> None:
    reading = await ask("http://127.0.0.1:9")
    assert reading.blind is not None
    assert reading.blind.reason is Reason.METRICS_UNREACHABLE


@pytest.mark.parametrize(("off", "words"), [(120.0, "120 s ahead of"), (-45.0, "45 s behind")])
async def test_a_clock_that_is_off_is_named(off: float, words: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return answer_of(str((await request.post())["query"]), [], now=NOW + off)

    async with serving(answer) as url:
        reading = await ask(url)
    assert reading.blind is not None
    assert reading.blind.reason is Reason.CLOCK_SKEW
    assert words in reading.blind.message


async def test_without_routers_nobody_is_asked() -> None:
    source = Prometheus("http://127.0.0.1:9", VirtualClock(epoch=NOW))
    assert await source.read("ns", "small", [], seconds=300.0) == Reading()
    await source.close()


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://prometheus", "http://", ""])
def test_an_address_that_is_none_is_refused_with_one_that_would_do(url: str) -> None:
    with pytest.raises(ConfigError, match=r"--prometheus-url: .* is no address; http://prometheus"):
        Prometheus(url, VirtualClock())


def test_the_queries_are_plain_json_strings() -> None:
    # A selector is quoted for Prometheus, which unquotes as JSON does.
    from paceline.planner.prometheus import _pods_like, _quoted

    assert json.loads(f'"{_quoted(_pods_like(ROUTERS))}"') == _pods_like(ROUTERS)
