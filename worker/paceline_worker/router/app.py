"""Puts a router together from its settings, starts it and stops it. ``__main__`` and the tests call it."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from paceline.api import wire
from paceline.clock import WallClock
from paceline.errors import ConfigError
from paceline.policy.health.output import OutputHealth
from paceline.policy.health.pace import Pace
from paceline.policy.routing.pools import split
from paceline.policy.routing.sessions import Sessions
from paceline_worker.http.client import Pool, PoolLimits, UpstreamTls
from paceline_worker.http.server import Limits, Server, serve
from paceline_worker.http.tls import AUTHORITY, CERTIFICATE, KEY, Renewed, client_files, follow, server_files
from paceline_worker.router.admin import Admin
from paceline_worker.router.fleet import Engine, Fleet
from paceline_worker.router.fleet_file import FleetFile
from paceline_worker.router.fleet_kubernetes import FleetSource, KubernetesFleet
from paceline_worker.router.flow import Flow
from paceline_worker.router.gate import Gate
from paceline_worker.router.hedging import Hedging
from paceline_worker.router.live.page import LivePage
from paceline_worker.router.matcher import Matcher
from paceline_worker.router.metrics import Metrics, Sample
from paceline_worker.router.opening import Opening
from paceline_worker.router.outcomes import Outcomes
from paceline_worker.router.pod_api import PodApi, require_account
from paceline_worker.router.prefixes.knowledge import Knowledge
from paceline_worker.router.routes import Routes
from paceline_worker.router.settings import Settings, knowledge_settings
from paceline_worker.router.slo import SloCounts
from paceline_worker.router.tenants.keys import KeyRing
from paceline_worker.router.tenants.metrics import TenantMetrics
from paceline_worker.router.tokens.tokeniser import open_tokeniser
from paceline_worker.router.tracing.trace import open_tracer
from paceline_worker.router.watch import Watch
from paceline_worker.router.wellness.listening import Listening
from paceline_worker.router.wellness.rotation import Rotation

log = logging.getLogger(__name__)

TICK_SECONDS: Final = 1.0
RECENT: Final = 0.995
"""What a request counts for in the split of the pools a second later: half after two minutes."""


class Router:
    """One router. :meth:`start` it within a running loop, :meth:`close` it when done."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        tenants = _tenants(settings)
        self._keys = None if tenants is None else tenants[1]
        config, clock = settings.config, WallClock()
        timeouts = config.timeouts
        self.pool = Pool(
            PoolLimits(
                connect_seconds=timeouts.connect_milliseconds / 1000,
                first_byte_seconds=timeouts.first_byte_milliseconds / 1000,
                idle_seconds=timeouts.idle_milliseconds / 1000,
            ),
            _engine_tls(config.engine_tls),
        )
        self._tls = _own_tls(config.tls)
        self.fleet = Fleet(on_change=self._fleet_changed, on_gone=self._engine_gone)
        self._clock = clock
        self.knowledge = Knowledge(knowledge_settings(config, settings.model), clock)
        wellness = config.output_health
        listening = Listening(
            OutputHealth(), Pace(), settings.model, clock,
            hears=not (wellness.mode is wellness.slow_engines is wire.WatchMode.OFF),
            keep_samples=wellness.keep_samples,
        )  # fmt: skip
        self._rotation = Rotation(wellness, self.fleet, listening)
        self.metrics = Metrics(self._gauges, self._totals)
        self._tokeniser = open_tokeniser(config.tokenizer, clock, max_model_len=config.max_model_len)
        self.metrics.registry.register(self._tokeniser.metrics)
        outcomes = Outcomes(config.objective)
        self.metrics.registry.register(outcomes)
        slo = SloCounts(config)
        self.metrics.registry.register(slo)
        self._counted: list[int] = [0] * len(self.metrics.uncached_tokens.counts)
        self._lately: list[float] = [0.0] * len(self._counted)
        """Uncached tokens of the last minutes' requests, in the buckets of the histogram."""
        self._sessions = Sessions(ttl_seconds=config.sessions.ttl_seconds)
        self.gate = Gate(self.fleet, settings.placement, settings.model, config, random.random)
        self.metrics.show("decision_seconds", "Time to choose engines for a request.", self.gate.decision_seconds)
        self.metrics.show("yield_pause_seconds", "Pauses of streams that gave way.", self.gate.guests.pauses)
        matcher = Matcher(config, self.knowledge, self._tokeniser, self._sessions, clock)
        hedging = None if config.hedging is None else Hedging(config.hedging, self.gate, self.metrics.hedges)
        opening = Opening(self.fleet, matcher, self.pool, self.metrics, hedging)
        flow = Flow(
            opening, self.gate, matcher, self.pool, self.metrics, outcomes, slo, settings.model, clock,
            config.max_model_len, listening,
        )  # fmt: skip
        self._tracer = open_tracer(config.deployment, enabled=settings.tracing)
        self._routes = Routes(config, self.fleet, flow, self.metrics, outcomes, slo, clock, self._tracer, tenants)
        if self._routes.door is not None:
            self.metrics.registry.register(TenantMetrics(self._routes.door))
        self._watch = Watch(self.fleet, self.pool, check_seconds=settings.check_seconds)
        self._source = _fleet_source(settings, self.fleet, self.metrics)
        self._live = self._live_page(slo)
        self._admin = Admin(
            self.fleet,
            self.knowledge,
            self.metrics,
            lambda: self._server is None or self._server.closing,
            holds=config.admission.max_wake_seconds is not None,
            samples=listening.samples,
            more=() if self._live is None else self._live.routes(),
        )
        self._server: Server | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _live_page(self, slo: SloCounts) -> LivePage | None:
        settings = self._settings
        if settings.live is None:
            return None
        return LivePage(
            settings.live, settings.config, self.fleet, self.metrics, slo, self._clock,
            running=lambda: self._routes.running, queued=lambda: self.gate.waiting,
        )  # fmt: skip

    @property
    def port(self) -> int:
        """Of the API."""
        return 0 if self._server is None else self._server.port

    @property
    def admin_port(self) -> int:
        """Of the admin server."""
        return self._admin.port

    async def start(self) -> None:
        """Read the fleet and serve. Raises ConfigError when a port can't be used."""
        settings = self._settings
        self._source.begin()
        if self._keys is not None:
            self._keys.read()
        limits = Limits(max_body_bytes=settings.config.admission.max_body_bytes)
        flag, port = "--port", settings.port
        try:
            self._server = await serve(
                self._routes.handle, settings.host, port, limits=limits,
                on_refusal=lambda status: self.metrics.http_refused.add(str(status)),
                tls=None if self._tls is None else self._tls.get(),
            )  # fmt: skip
            flag, port = "--admin-port", settings.admin_port
            await self._admin.start(settings.host, port)
        except OSError as error:
            await self.close(grace_seconds=0)
            raise ConfigError(f"{flag}: {settings.host}:{port} can't be used: {error.strerror}.") from None
        self._tasks = [
            asyncio.create_task(self._source.follow(), name="fleet source"),
            asyncio.create_task(self._tick(), name="tick"),
        ]
        if self._tls is not None:
            self._tasks.append(asyncio.create_task(follow(self._tls, self._server), name="certificates"))
        if self._keys is not None:
            self._tasks.append(asyncio.create_task(self._keys.follow(), name="tenant keys"))
        log.info(
            "router of %s listens on %s:%d, admin on %d", settings.config.deployment, settings.host, self.port,
            self.admin_port,
        )  # fmt: skip

    async def run(self) -> None:
        """Return only when a task that must not end does: its exception is raised."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def close(self, *, grace_seconds: float) -> None:
        """Stop accepting, let requests finish for ``grace_seconds``, drop the rest."""
        if self._server is not None:
            await self._server.close(grace_seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._source.close()
        await self._watch.close()
        await self._admin.close()
        await self.pool.close()
        self._tokeniser.close()
        # It may wait for a collector that does not answer.
        await asyncio.to_thread(self._tracer.close)
        self.knowledge.close()

    def _fleet_changed(self) -> None:
        self.pool.secured = {engine.address for engine in self.fleet if engine.endpoint.tls}
        self._watch.sync()
        self.knowledge.sync(self.fleet)
        self.gate.wake()
        if self._live is not None:
            self._live.fleet_changed()

    def _engine_gone(self, engine: Engine) -> None:
        engine.cut_prefills()
        self.pool.forget(engine.address)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.gate.tick(TICK_SECONDS)
            self.knowledge.tick()
            self._sessions.expire(self._clock.monotonic())
            self._split()
            self._rotation.tick(self._clock.monotonic())
            if self._live is not None:
                self._live.tick()
            # Room can also appear without an event of ours: another router's requests may have finished.
            self.gate.wake()

    def _split(self) -> None:
        if self._settings.config.cold_warm_split.mode is wire.SplitMode.AUTO:
            seen = self.metrics.uncached_tokens
            self._lately = [
                RECENT * kept + now - before
                for kept, now, before in zip(self._lately, seen.counts, self._counted, strict=True)
            ]
            self._counted = list(seen.counts)
            found = split(seen.bounds, self._lately, self._settings.model)
            if found is not None:
                self.gate.seats.set_split(found)

    def _totals(self) -> Iterable[Sample]:
        yield from self.knowledge.counts()
        yield from self._rotation.totals()
        yield from self.gate.guests.totals()

    def _gauges(self) -> Iterable[Sample]:
        yield "running_requests", "Requests in the router, waiting ones among them.", {}, self._routes.running
        yield "queued_requests", "Requests that wait for an engine with room.", {}, self.gate.waiting
        yield (
            "queued_decode_requests",
            "Requests that wait for a decode engine with room.",
            {},
            self.gate.queued_decode,
        )
        yield "tasks", "Tasks of the event loop.", {}, len(asyncio.all_tasks())
        yield "paused_streams", "Streams that gave way and wait to go on.", {}, self.gate.guests.paused
        yield "queued_bytes", "Memory of requests that wait, about.", {}, self.gate.queued_bytes
        yield "queued_prefill_seconds", "Prefill work of requests that wait for it.", {}, self.gate.queued_seconds
        yield "fleet_version", "Version of the fleet in force.", {}, self.fleet.version
        yield "fleet_stale_seconds", "Since the source of the fleet was last heard of.", {}, self._source.stale_seconds
        yield "upstream_connections", "Open connections to engines.", {}, self.pool.connections
        yield "sessions", "Sessions that are remembered.", {}, len(self._sessions)
        yield (
            "cold_prompt_tokens",
            "Uncached tokens from which a prompt is cold; 0: not split.",
            {},
            (self.gate.seats.settings.cold_tokens or 0),
        )
        yield (
            "step_share",
            "Time of a decode step, as a share of what the engine model says, as far as it is below 1.",
            {},
            self.gate.seats.step_share,
        )
        yield from self.knowledge.samples()
        yield from self._certificate_gauges()
        yield from self._rotation.gauges()
        if self._server is not None:
            yield "client_connections", "Open connections of clients.", {}, self._server.connections
        states: Counter[tuple[str, str]] = Counter()
        for engine in self.fleet:
            yield from self._engine_gauges(engine)
            state = _state(engine)
            states[str(engine.endpoint.role), state] += 1
        for (role, state), count in states.items():
            yield "fleet_engines", "Engines by role and state.", {"role": role, "state": state}, count

    def _certificate_gauges(self) -> Iterable[Sample]:
        used = [renewed for renewed in (self._tls, self.pool.certificates) if renewed is not None]
        text = "Times since the start that certificates changed, by whether the new ones could be used."
        yield "certificate_changes", text, {"outcome": "taken"}, sum(one.changes for one in used)
        yield "certificate_changes", text, {"outcome": "refused"}, sum(one.refused for one in used)

    def _engine_gauges(self, engine: Engine) -> Iterable[Sample]:
        labels = {"engine": engine.name}
        yield "engine_in_flight", "Requests of this router at an engine.", labels, engine.running
        yield "engine_prefilling", "Remote prefills of this router at an engine.", labels, engine.prefilling
        yield "engine_kv_usage", "Share of KV blocks in use, as the engine said last.", labels, engine.reported.kv_usage
        cached = self.knowledge.told(engine) * self._settings.config.block_size
        yield "engine_cached_tokens", "Tokens that the engine's cache is known to hold.", labels, cached


def _own_tls(tls: wire.RouterTls | None) -> Renewed | None:
    if tls is None:
        return None
    folder = Path(tls.folder)
    authority = None if tls.client_ca_folder is None else Path(tls.client_ca_folder) / AUTHORITY
    return server_files(folder / CERTIFICATE, folder / KEY, authority)


def _engine_tls(tls: wire.RouterToEngineTls | None) -> UpstreamTls | None:
    if tls is None:
        return None
    own = None if tls.client_folder is None else Path(tls.client_folder)
    pair = None if own is None else (own / CERTIFICATE, own / KEY)
    return UpstreamTls(client_files(Path(tls.ca_folder) / AUTHORITY, pair), tls.server_name)


def _state(engine: Engine) -> str:
    if not engine.health.usable:
        return "unhealthy"
    return str(engine.endpoint.state) if engine.suspended is None else "suspended"


def _tenants(settings: Settings) -> tuple[wire.Tenancy, KeyRing] | None:
    """None where everybody is served. Raises ConfigError where tenants are named, and no place of their keys."""
    tenancy = settings.config.tenancy
    if tenancy is None:
        return None
    if settings.tenant_keys is None:
        raise ConfigError("There are tenants, and no folder of their API keys: nobody is served.")
    return tenancy, KeyRing(settings.tenant_keys, [one.name for one in tenancy.tenants], secrets.token_bytes(32))


def _fleet_source(settings: Settings, fleet: Fleet, metrics: Metrics) -> FleetSource:
    """Raises ConfigError where the source can never be read."""
    if settings.pods is not None:
        require_account(settings.pods)
        return KubernetesFleet(PodApi(settings.pods), fleet.apply, metrics.fleet_watch_breaks.add, random.random)
    if settings.fleet_file is not None:
        return FleetFile(settings.fleet_file, fleet.apply, metrics.fleet_refused.add)
    raise ConfigError("The router has no source of its fleet: neither a file nor pods.")
