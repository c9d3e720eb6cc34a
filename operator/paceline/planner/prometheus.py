"""The source of metrics in a cluster: Prometheus, asked for the raw samples of the demand window.

Raw samples, not ``rate()``: the planner replays what came between two scrapes, and sees restarts of routers that a rate
would smooth over. One query brings everything; a second one asks for Prometheus's clock, because samples are on it.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, TypeVar

import httpx
import msgspec
from msgspec import Meta

from paceline.api.conditions import Reason
from paceline.clock import Clock
from paceline.errors import ConfigError
from paceline.planner.pages import NAMES, BadPage, RouterPage, Sample, make_page
from paceline.planner.source import Blind, Reading, Router
from paceline.unreadable import UNREADABLE

TIMEOUT_SECONDS: Final = 5.0
TRIES: Final = 3
PAUSE_SECONDS: Final = 0.3
"""Between tries; doubled each time."""
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
MAX_SKEW_SECONDS: Final = 30.0
"""Between the clocks of Prometheus and of this process. More would put arrivals where they were not."""
AT_ONCE: Final = 4
"""Queries at the same time."""
RETRIED: Final = frozenset({429, 500, 502, 503, 504})
OWN_LABELS: Final = frozenset({"kind", "le", "prompt", "ttft", "itl", "engine", "reason"})
"""Labels that routers give their samples. All others say who was scraped, and by whom."""
_QUERY: Final = "|".join(sorted(NAMES))
_POD_SUFFIX: Final = "-[a-z0-9]+-[a-z0-9]{5}"
"""What a Deployment appends to its name for its pods."""


class Series(msgspec.Struct):
    """One time series of a range of raw samples."""

    metric: dict[str, str]
    values: Annotated[list[tuple[float, str]], Meta(max_length=100_000)]


class _Matrix(msgspec.Struct):
    result: Annotated[list[Series], Meta(max_length=1_000_000)]


class _Scalar(msgspec.Struct):
    result: tuple[float, str]


class _Answer(msgspec.Struct):
    status: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    warnings: tuple[str, ...] = ()


T = TypeVar("T", _Matrix, _Scalar)


class _Unusable(Exception):
    """The answer can't be used; ``blind`` says why."""

    def __init__(self, blind: Blind) -> None:
        super().__init__(blind.message)
        self.blind = blind


class Prometheus:
    """Asks one Prometheus, or whatever speaks its query API. Raises ConfigError for an address that is none."""

    def __init__(self, url: str, clock: Clock, *, token: str | None = None) -> None:
        parsed = httpx.URL(url) if _looks_like_url(url) else None
        if parsed is None or not parsed.host:
            raise ConfigError(f"--prometheus-url: {url!r} is no address; http://prometheus.monitoring:9090 would be.")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._clock = clock
        self._http = httpx.AsyncClient(timeout=TIMEOUT_SECONDS, headers=headers, trust_env=False)
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def read(self, namespace: str, deployment: str, routers: Sequence[Router], *, seconds: float) -> Reading:
        """See :class:`paceline.planner.source.MetricsSource`."""
        del deployment  # its routers say which it is
        if not routers:
            return Reading()
        selector = f'{{__name__=~"{_QUERY}",namespace="{namespace}",pod=~"{_quoted(_pods_like(routers))}"}}'
        try:
            async with self._turn:
                clock, matrix = await asyncio.gather(
                    self._query("time()", _Scalar), self._query(f"{selector}[{math.ceil(seconds)}s]", _Matrix)
                )
            self._check_clock(clock.result[0])
        except _Unusable as error:
            return Reading(blind=error.blind)
        return make_reading(matrix.result)

    def forget(self, namespace: str, deployment: str) -> None:
        """Nothing is kept here."""

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    def _check_clock(self, theirs: float) -> None:
        skew = theirs - self._clock.wall()
        if abs(skew) > MAX_SKEW_SECONDS:
            ahead = "ahead of" if skew > 0 else "behind"
            message = f"Prometheus's clock is {abs(skew):.0f} s {ahead} this one; {MAX_SKEW_SECONDS:.0f} s are allowed"
            raise _Unusable(Blind(Reason.CLOCK_SKEW, message))

    async def _query(self, query: str, kind: type[T]) -> T:
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(PAUSE_SECONDS * 2.0 ** (attempt - 1))
            try:
                status, body = await self._post(query)
            except httpx.HTTPError as error:
                problem = str(error) or type(error).__name__
                continue
            if status in RETRIED:
                problem = f"it answers {status}"
                continue
            return _decode(status, body, kind)
        raise _Unusable(Blind(Reason.METRICS_UNREACHABLE, f"Prometheus can't be asked: {problem}"))

    async def _post(self, query: str) -> tuple[int, bytes]:
        async with self._http.stream("POST", self._url, data={"query": query}) as answer:
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    message = f"Prometheus's answer has more than {MAX_ANSWER_BYTES} bytes"
                    raise _Unusable(Blind(Reason.METRICS_INVALID, message))
            return answer.status_code, bytes(body)


def make_reading(found: Iterable[Series]) -> Reading:
    """Pages by router out of the series of one answer. Pure.

    Series that say who was scraped in different words are the same router scraped twice: the scrape that is newest, and
    then the one with most samples, is taken, and nothing is added up.
    """
    targets: defaultdict[str, dict[frozenset[tuple[str, str]], list[Series]]] = defaultdict(dict)
    for series in found:
        pod = series.metric.get("pod", "")
        who = frozenset(pair for pair in series.metric.items() if pair[0] not in OWN_LABELS and pair[0] != "__name__")
        targets[pod].setdefault(who, []).append(series)
    pages: dict[str, Sequence[RouterPage]] = {}
    faults: dict[str, Blind] = {}
    for pod, scraped in targets.items():
        best = max((_pages(pod, series) for series in scraped.values()), key=_newest)
        if best[0]:
            pages[pod] = best[0]
        if best[1] is not None:
            faults[pod] = best[1]
    return Reading(pages=pages, faults=faults)


def _pages(pod: str, found: Sequence[Series]) -> tuple[tuple[RouterPage, ...], Blind | None]:
    """All pages of one target, and what is wrong with the newest. Earlier ones that can't be right are left out."""
    samples: defaultdict[float, list[Sample]] = defaultdict(list)
    for series in found:
        name = series.metric.get("__name__", "")
        own: Mapping[str, str] = {key: value for key, value in series.metric.items() if key in OWN_LABELS}
        for at, text in series.values:
            samples[at].append(Sample(name, own, _number(text)))
    pages: list[RouterPage] = []
    fault: Blind | None = None
    for at in sorted(samples):
        try:
            pages.append(make_page(at, samples[at]))
            fault = None
        except BadPage as error:
            fault = Blind(Reason.METRICS_INVALID, f"the metrics of router {pod} can't be right: {error}")
    return tuple(pages), fault


def _newest(pages: tuple[tuple[RouterPage, ...], Blind | None]) -> tuple[float, int]:
    return (pages[0][-1].at, len(pages[0])) if pages[0] else (-math.inf, 0)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _decode(status: int, body: bytes, kind: type[T]) -> T:
    try:
        answer = msgspec.json.decode(body, type=_Answer)
        if status != 200 or answer.status != "success":
            message = f"Prometheus refuses the query: {status} {answer.error[:300]}"
            raise _Unusable(Blind(Reason.METRICS_UNREACHABLE, message))
        if answer.warnings:
            message = f"Prometheus answers in part only: {answer.warnings[0][:300]}"
            raise _Unusable(Blind(Reason.METRICS_INVALID, message))
        return msgspec.json.decode(answer.data, type=kind)
    except UNREADABLE:
        message = f"Prometheus answers {status} with something that is no query result"
        raise _Unusable(Blind(Reason.METRICS_INVALID, message)) from None


def _pods_like(routers: Sequence[Router]) -> str:
    """Pattern of these routers' pods and of those that were there before them."""
    names = {re.escape(router.name) for router in routers}
    workloads = {re.escape(router.name.rsplit("-", 2)[0]) for router in routers}
    return "|".join(sorted(names | {f"{workload}{_POD_SUFFIX}" for workload in workloads}))


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _looks_like_url(url: str) -> bool:
    return url.startswith(("http://", "https://"))
