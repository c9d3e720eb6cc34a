"""The embedded source of metrics: reads routers' own pages and keeps those of the last minutes.

For the local runtime, and for clusters without Prometheus. What happened before it began to look it does not know.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import httpx

from paceline.api.conditions import Reason
from paceline.clock import Clock
from paceline.planner.pages import NAMES, PREFIX, BadPage, RouterPage, Sample, make_page
from paceline.planner.source import Blind, Reading, Router

TIMEOUT_SECONDS: Final = 3.0
TRIES: Final = 2
MAX_PAGE_BYTES: Final = 16 * 1024 * 1024
MAX_PAGES: Final = 4_096
"""Kept of one router."""
AT_ONCE: Final = 16
"""Routers of all deployments that are asked at the same time."""
_LINE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)")
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class RouterScraper:
    """Asks routers themselves."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._http = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False)
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._kept: dict[tuple[str, str], dict[str, deque[RouterPage]]] = {}

    async def read(self, namespace: str, deployment: str, routers: Sequence[Router], *, seconds: float) -> Reading:
        """See :class:`paceline.planner.source.MetricsSource`."""
        answers = await asyncio.gather(*(self._ask(router) for router in routers))
        kept = self._kept.setdefault((namespace, deployment), {})
        faults: dict[str, Blind] = {}
        for router, answer in zip(routers, answers, strict=True):
            if isinstance(answer, Blind):
                faults[router.name] = answer
            else:
                pages = kept.setdefault(router.name, deque(maxlen=MAX_PAGES))
                if pages and pages[-1].at >= answer.at:
                    pages.clear()  # the clock was put back: when these were read nobody knows any more
                pages.append(answer)
        begin = self._clock.wall() - seconds
        for name, pages in list(kept.items()):
            # One page from before the window tells what its first interval adds.
            while len(pages) > 1 and pages[1].at <= begin:
                pages.popleft()
            if pages[-1].at < begin:
                del kept[name]
        return Reading(pages={name: tuple(pages) for name, pages in kept.items()}, faults=faults)

    def forget(self, namespace: str, deployment: str) -> None:
        """See :class:`paceline.planner.source.MetricsSource`."""
        self._kept.pop((namespace, deployment), None)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _ask(self, router: Router) -> RouterPage | Blind:
        url = f"http://{_host(router.host)}:{router.admin_port}/metrics"
        problem = ""
        for _ in range(TRIES):
            try:
                async with self._turn:
                    text = await self._get(url)
                return make_page(self._clock.wall(), read_lines(text))
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = str(error) or type(error).__name__
            except BadPage as error:
                return Blind(Reason.METRICS_INVALID, f"the metrics of router {router.name} can't be right: {error}")
        return Blind(Reason.METRICS_UNREACHABLE, f"router {router.name} does not show its metrics: {problem}")

    async def _get(self, url: str) -> str:
        async with self._http.stream("GET", url) as answer:
            answer.raise_for_status()
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > MAX_PAGE_BYTES:
                    raise BadPage(f"the page has more than {MAX_PAGE_BYTES} bytes")
        return body.decode("utf-8", "replace")


def read_lines(text: str) -> Iterator[Sample]:
    """The samples of a page in Prometheus's text format that the planner needs. Raises BadPage."""
    for line in text.splitlines():
        if not line.startswith(PREFIX):
            continue
        found = _LINE.match(line)
        if found is None or found[1] not in NAMES:
            continue
        try:
            value = float(found[3])
        except ValueError:
            raise BadPage(f"{found[1]} is {found[3]!r}, which is no number") from None
        yield Sample(found[1], dict(_LABEL.findall(found[2] or "")), value)


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
