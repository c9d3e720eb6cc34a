"""``/live`` on the router's admin port: three plain files, and the numbers that they draw. Read-only.

The browser asks once a second for counters as they are and works out rates and quantiles itself. Kept here are the
counters of the last minutes, so that a page that is opened has charts at once, and what changed in the fleet; both are
bounded. ``app`` makes one where the settings ask for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Final

import msgspec
from aiohttp import web

from paceline.api import wire
from paceline.clock import Clock
from paceline.unreadable import UNREADABLE
from paceline_worker.router.fleet import Engine, Fleet
from paceline_worker.router.live.settings import LiveSettings
from paceline_worker.router.metrics import Distribution, Metrics
from paceline_worker.router.slo import SloCounts

MAX_CHANGES: Final = 100
KEPT_SECONDS: Final = 300
MAX_DECISIONS: Final = 20
MAX_DECISIONS_BYTES: Final = 4 * 1024 * 1024
FILES: Final = {"live.css": "text/css", "live.js": "text/javascript"}
HEADERS: Final = {
    # Nothing from elsewhere: the page works without a network, and nothing can be smuggled into it.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
    ),
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


class LivePage:
    """The page's files and numbers."""

    def __init__(
        self,
        settings: LiveSettings,
        config: wire.RouterConfig,
        fleet: Fleet,
        metrics: Metrics,
        slo: SloCounts,
        clock: Clock,
        *,
        running: Callable[[], int],
        queued: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._config = config
        self._fleet = fleet
        self._metrics = metrics
        self._slo = slo
        self._clock = clock
        self._running = running
        self._queued = queued
        self._known: dict[str, tuple[str, str]] = {}
        self._changes: deque[dict[str, object]] = deque(maxlen=MAX_CHANGES)
        self._past: deque[dict[str, object]] = deque(maxlen=KEPT_SECONDS)
        static = resources.files(__package__) / "static"
        self._index = (static / "index.html").read_bytes()
        self._files = {name: (static / name).read_bytes() for name in FILES}

    def routes(self) -> Iterable[web.RouteDef]:
        """For the admin server."""
        return (
            web.get("/live", self._show),
            web.get("/live/state", self._state),
            web.get("/live/past", self._show_past),
            web.get("/live/{file}", self._file),
        )

    def fleet_changed(self) -> None:
        """Note who came, went, or has another role or state."""
        now = {engine.name: (str(engine.endpoint.role), str(engine.endpoint.state)) for engine in self._fleet}
        for name in now.keys() | self._known.keys():
            before, after = self._known.get(name), now.get(name)
            if before != after:
                self._changes.appendleft({"at": self._clock.wall(), "engine": name, "text": _words(before, after)})
        self._known = now

    def tick(self) -> None:
        """Keep the counters of this second."""
        self._past.append(self._counters())

    def _counters(self) -> dict[str, object]:
        return {
            "at": self._clock.wall(),
            "classes": self._slo.summary(),
            "queued": self._queued(),
            "running": self._running(),
            "ttft": _histogram(self._metrics.ttft),
            "itl": _histogram(self._metrics.itl),
        }

    def state(self) -> dict[str, object]:
        """Everything that the page draws, as of now. Times are in seconds of the engines' clock."""
        config = self._config
        return {
            "deployment": config.deployment,
            "namespace": config.namespace,
            "speed": config.engine_speed,
            **self._counters(),
            "engines": [_engine(engine) for engine in self._fleet],
            "changes": list(self._changes),
            "decisions": self._decisions(),
        }

    def _decisions(self) -> list[object]:
        """The planner's last ones, newest first; none where nobody plans or the file can't be read."""
        path = self._settings.decisions
        if path is None:
            return []
        try:
            with path.open("rb") as file:
                document = msgspec.json.decode(file.read(MAX_DECISIONS_BYTES), type=_Decided)
        except (OSError, *UNREADABLE):
            return []
        return document.status.scaling.history[:MAX_DECISIONS]

    async def _show(self, _: web.Request) -> web.Response:
        return web.Response(body=self._index, content_type="text/html", charset="utf-8", headers=HEADERS)

    async def _file(self, request: web.Request) -> web.Response:
        name = request.match_info["file"]
        if name not in self._files:
            raise web.HTTPNotFound
        return web.Response(body=self._files[name], content_type=FILES[name], charset="utf-8", headers=HEADERS)

    async def _show_past(self, _: web.Request) -> web.Response:
        return _json(list(self._past))

    async def _state(self, _: web.Request) -> web.Response:
        return _json(self.state())


def _json(document: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json", headers=HEADERS)


class _Scaling(msgspec.Struct):
    history: list[object] = msgspec.field(default_factory=list)


class _Status(msgspec.Struct):
    scaling: _Scaling = msgspec.field(default_factory=_Scaling)


class _Decided(msgspec.Struct):
    """What matters of the planner's file."""

    status: _Status = msgspec.field(default_factory=_Status)


def _words(before: tuple[str, str] | None, after: tuple[str, str] | None) -> str:
    if after is None:
        return "went"
    if before is None:
        return f"came as {after[0]}, {after[1]}"
    parts = [f"{before[0]} → {after[0]}"] if before[0] != after[0] else []
    if before[1] != after[1]:
        parts.append(after[1])
    return ", ".join(parts)


def _engine(engine: Engine) -> dict[str, object]:
    return {
        "name": engine.name,
        "role": engine.endpoint.role,
        "state": engine.endpoint.state,
        "usable": engine.usable,
        "running": engine.running,
        "prefilling": engine.prefilling,
        "kvUsage": engine.reported.kv_usage,
    }


def _histogram(seen: Distribution) -> dict[str, object]:
    return {"bounds": list(seen.bounds), "counts": list(seen.counts)}
