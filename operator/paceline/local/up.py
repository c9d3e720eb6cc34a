"""One run of ``paceline up``: start the cluster, serve, send the load if one was asked for, report, leave nothing
behind.

The command line calls :func:`run_up` with options that it has checked and a console to write to.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import random
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import uvloop
from rich.console import Console

from paceline.api.v1alpha1 import ModelDeployment
from paceline.clock import Clock, WallClock
from paceline.errors import ConfigError, LocalRuntimeError
from paceline.local.cluster import LocalCluster
from paceline.local.display import Display
from paceline.local.guard import Guard
from paceline.local.load import LoadClient, LoadOptions, LoadResult
from paceline.local.loads import ChosenLoad, LoadChoice, choose_load
from paceline.local.monitor import Monitor
from paceline.local.plan import ClusterOptions, make_plan
from paceline.local.planning import LocalPlanner, is_planned
from paceline.local.pods import LOOPBACK
from paceline.local.ports import PortAllocator
from paceline.local.probe import PodClient
from paceline.local.report import LoadFacts, SloReport, make_report
from paceline.local.tenants import a_key_of_each
from paceline.planner.recorder import Recorder
from paceline.policy.scaling.profiles import profile_of
from paceline.traces.prompts import PromptMaker

KEEP_ALIVE_SECONDS: Final = 5.0
"""Shorter than the router's own, so that no request goes out on a connection that is just being closed."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What the user asked for, checked."""

    cluster: ClusterOptions
    run_dir: Path
    load: LoadChoice | None = None
    once: bool = False
    """End when the load has ended."""
    fixed: bool = False
    """Keep the number of engines, whatever ``spec.scaling`` says."""
    record: Path | None = None
    """Folder for what the planner sees and decides."""
    report: Path | None = None
    plot: Path | None = None


def run_up(md: ModelDeployment, options: UpOptions, console: Console) -> int:
    """Run until the load is done or a signal comes. Returns the exit code: 0, 1 if a request failed, or 128 + signal.

    Raises PacelineError for everything that the user can do something about.
    """
    load = None
    if options.load is not None:
        real = options.cluster.backend == "vllm"
        load = choose_load(options.load, max_model_len=md.spec.model.max_model_len, real_engines=real)
    for flag, path in (("--report", options.report), ("--plot", options.plot)):
        if path is not None:
            _check_writable(flag, path)
    # The load client shares this process: a faster loop is a client that is less late.
    with _owned(options.run_dir), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(md, options, load, console))


async def _run(md: ModelDeployment, options: UpOptions, load: ChosenLoad | None, console: Console) -> int:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
    with Guard() as guard:
        async with aiohttp.ClientSession(connector=connector) as session:
            clock = WallClock()
            plan = make_plan(
                md,
                options.cluster,
                ports=PortAllocator(LOOPBACK, random.Random()),  # noqa: S311 - spreads ports, hides nothing
                fleet_path=options.run_dir / "fleet.json",
                environment=os.environ,
            )
            client = PodClient(session)
            cluster = LocalCluster(
                plan, log_dir=options.run_dir / "logs", probe=client.ready, idle=client.idle, guard=guard, clock=clock
            )
            monitor = Monitor(cluster, client, clock)
            display = Display(console, cluster, monitor, md.spec.slo, options.cluster.speed, clock)
            planner = _planner(md, options, cluster, display, clock)
            run = _Run(md, options, load, session, cluster, monitor, display, clock, planner)
            with _signals(cluster) as interrupted:
                try:
                    return await run.until(interrupted)
                finally:
                    display.stopping()
                    await cluster.stop()


def _planner(
    md: ModelDeployment, options: UpOptions, cluster: LocalCluster, display: Display, clock: Clock
) -> LocalPlanner | None:
    """None where nobody plans: the user has fixed the number of engines, or nothing is known of them."""
    profile = cluster.plan.prefill_profile
    if not is_planned(md, profile=profile, fixed=options.fixed):
        return None
    return LocalPlanner(
        md,
        cluster,
        clock,
        speed=options.cluster.speed,
        profile=profile,
        folder=options.run_dir,
        said=display.decided,
        recorder=None if options.record is None else Recorder(options.record),
    )


@dataclass(frozen=True, slots=True)
class _Sent:
    """A load on its way, and how things stood when it began."""

    load: ChosenLoad
    result: LoadResult
    begun: float
    prefix_totals: tuple[float, float]
    starts: int


class _Run:
    """A cluster that is started, watched and loaded."""

    def __init__(
        self,
        md: ModelDeployment,
        options: UpOptions,
        load: ChosenLoad | None,
        session: aiohttp.ClientSession,
        cluster: LocalCluster,
        monitor: Monitor,
        display: Display,
        clock: Clock,
        planner: LocalPlanner | None,
    ) -> None:
        self._planner = planner
        self._md = md
        self._options = options
        self._load = load
        self._session = session
        self._cluster = cluster
        self._monitor = monitor
        self._display = display
        self._clock = clock
        self._sent: _Sent | None = None

    async def until(self, interrupted: asyncio.Future[int]) -> int:
        """Start and serve until the work is done or ``interrupted`` holds the number of a signal. The exit code."""
        tasks = {asyncio.create_task(self._work(), name="up")}
        try:
            await asyncio.wait({interrupted, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            if not interrupted.done():
                return next(iter(tasks)).result()
        finally:
            await _cancel(tasks)
        return 128 + interrupted.result()

    async def _work(self) -> int:
        self._cluster.start()
        begun = self._clock.monotonic()
        await self._display.while_starting()
        self._display.started(
            self._clock.monotonic() - begun, self._md.spec.model.client_name, self._options.run_dir / "logs"
        )
        await self._monitor.sample()
        watch = asyncio.create_task(self._watch(), name="watch")
        sending = asyncio.create_task(self._send(), name="load")
        try:
            await asyncio.wait({watch, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                watch.result()
            sending.result()
            if self._options.once:
                await _cancel({watch})
            report = self._report()
            if not self._options.once:
                await watch
        except asyncio.CancelledError:
            await _cancel({sending, watch})
            # What was sent until the interruption is worth a report.
            self._report()
            raise
        else:
            return 1 if report is not None and report.failed else 0
        finally:
            await _cancel({sending, watch})

    async def _watch(self) -> None:
        """Sample and show. Ends only with an error: when there is nothing left that could serve."""
        tasks = {
            asyncio.create_task(self._monitor.run(), name="monitor"),
            asyncio.create_task(self._display.while_serving(), name="display"),
        }
        if self._planner is not None:
            tasks.add(asyncio.create_task(self._planner.run(), name="planner"))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _cancel(tasks)

    async def _send(self) -> None:
        """Send the load, if there is one."""
        if self._load is None:
            return
        model, speed = self._md.spec.model.client_name, self._options.cluster.speed
        keys = self._options.cluster.tenant_keys
        client = LoadClient(
            LoadOptions(self._cluster.url, model, speed=speed, keys=a_key_of_each(self._md, keys)),
            session=self._session,
            prompts=PromptMaker(),
            clock=self._clock,
        )
        self._sent = _Sent(
            self._load, client.result, self._clock.monotonic(), self._monitor.prefix_totals(), self._starts()
        )
        self._display.loading(self._load.title, len(self._load.trace.requests), client.result)
        await client.run(self._load.trace.requests)
        await self._monitor.sample()

    def _engines(self) -> str:
        """What there was to begin with, and what the planner made of it."""
        title = self._cluster.plan.title
        changed = None if self._planner is None else self._planner.changed_to()
        if not changed:
            return title
        counts = " + ".join(f"{count} {role}" for role, count in changed.items() if count)
        return f"{title} to begin with, {counts} at the end"

    def _report(self) -> SloReport | None:
        """Print the report of the load and write the files that were asked for, once."""
        sent, self._sent = self._sent, None
        if sent is None:
            return None
        load, result = sent.load, sent.result
        queries, hits = self._monitor.prefix_totals()
        before = sent.prefix_totals
        looked_up = queries - before[0]
        profile = self._cluster.plan.prefill_profile
        facts = LoadFacts(
            deployment=self._md.metadata.name,
            engines=self._engines(),
            load=load.title,
            speed=self._options.cluster.speed,
            left_out=load.left_out,
            malformed=load.trace.malformed,
            cache_hit_percent=100 * (hits - before[1]) / looked_up if looked_up else None,
            restarts=self._starts() - sent.starts,
            prefill_model=None if profile is None else profile_of(profile, "engine profile"),
        )
        report = make_report(result, self._md.spec.slo, facts)
        self._display.reported(report, load.trace.problems)
        if self._options.report is not None:
            _write_json(self._options.report, report)
            self._display.wrote("report", self._options.report)
        if self._options.plot is not None:
            # Takes a second to import, and only those who ask for a picture need it.
            from paceline.local.plot import draw

            draw(
                self._options.plot,
                report=report,
                result=result,
                samples=list(self._monitor.samples),
                objective=self._md.spec.slo,
                started=sent.begun,
            )
            self._display.wrote("plot", self._options.plot)
        return report

    def _starts(self) -> int:
        return sum(max(0, view.status.starts - 1) for view in self._cluster.engines)


async def _cancel(tasks: Iterable[asyncio.Task[object]]) -> None:
    """Cancel and wait. What they raised was seen by whoever waited for them."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _signals(cluster: LocalCluster) -> Iterator[asyncio.Future[int]]:
    """A future that holds the first signal that asks to end. A second one kills the pods at once."""
    loop = asyncio.get_running_loop()
    interrupted: asyncio.Future[int] = loop.create_future()

    def receive(number: int) -> None:
        if interrupted.done():
            cluster.kill()
        else:
            interrupted.set_result(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, receive, int(number))
    try:
        yield interrupted
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextlib.contextmanager
def _owned(run_dir: Path) -> Iterator[None]:
    """Hold a run directory for this process alone, so that two runs never share a fleet file."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / "lock").open("w")
    except OSError as error:
        raise ConfigError(f"--run-dir: can't use {run_dir}: {error.strerror}.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LocalRuntimeError(
                f"Another paceline runs in {run_dir}. Stop it, or choose another --run-dir."
            ) from None
        yield


def _check_writable(flag: str, path: Path) -> None:
    """Find out before a load of minutes that its result could not be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("ab").close()
    except OSError as error:
        raise ConfigError(f"{flag}: can't write {path}: {error.strerror}.") from None


def _write_json(path: Path, report: SloReport) -> None:
    try:
        path.write_text(json.dumps(report.as_json(), indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"--report: can't write {path}: {error.strerror}.") from None
