"""The tasks of one replica: watches, the lease, workers over the queue, and the timers that make it level-triggered.

kopf starts and stops it, and feeds it ModelDeployments.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, Final

import kopf
from prometheus_client import CollectorRegistry

from paceline.clock import Clock
from paceline.controller.api import Json, KubeApi
from paceline.controller.events import Events
from paceline.controller.execute import Executor
from paceline.controller.http import OperatorServer
from paceline.controller.kinds import CHILDREN, MODEL_DEPLOYMENT, discover
from paceline.controller.lease import LeaderLease
from paceline.controller.metrics import OperatorMetrics
from paceline.controller.nodes import NodeTaints
from paceline.controller.queue import WorkQueue
from paceline.controller.reconcile import Reconciler, Services, SpecTargets, Targets
from paceline.controller.refusals import NotLeader
from paceline.controller.report import Reporter
from paceline.controller.settings import OperatorSettings
from paceline.controller.state import ClusterState, Key, key_of, named
from paceline.controller.watch import WatchCache
from paceline.controller.workers import EngineWorkers
from paceline.controller.writer import Writer
from paceline.errors import ClusterError

GATHER_SECONDS: Final = 0.05
"""Pause between a change and its pass: one write of ours comes back as several events."""
DISCOVERY_SECONDS: Final = 300.0
"""Time between two looks at which kinds the cluster has."""
SYNC_POLL_SECONDS: Final = 0.1
TELL_SECONDS: Final = 10.0
"""How long what is in the way may last before users are told."""
PAUSE_SECONDS: Final = 2.0
"""Before something that concerns the whole operator is tried again."""

log = logging.getLogger(__name__)


class Operator:
    """One replica of the operator. :meth:`start` it, feed it with :meth:`seen` and :meth:`gone`, :meth:`stop` it."""

    def __init__(
        self,
        connect: Callable[[], kopf.ConnectionInfo],
        settings: OperatorSettings,
        clock: Clock,
        *,
        targets: Targets | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = OperatorMetrics()
        self._queue: WorkQueue[Key] = WorkQueue(self._metrics.queue_length)
        self._api = KubeApi(connect, self._metrics)
        self._workers = EngineWorkers()
        self._server = OperatorServer(self._metrics, self.trouble)
        self._lease = LeaderLease(
            self._api,
            namespace=settings.lease_namespace,
            identity=settings.identity,
            duration_seconds=settings.lease_seconds,
            clock=clock,
            changed=self._lead,
        )
        writer = Writer(self._api, may_write=lambda: self._lease.valid, crash_after_writes=settings.crash_after_writes)
        events = Events(writer, clock, settings.identity)
        self._state = ClusterState(
            self._api, namespace=settings.namespace, metrics=self._metrics, changed=self._has_changed
        )
        self._targets: Targets = targets or SpecTargets()
        self._targets.ask_for_passes(lambda namespace, name: self._queue.add(named(namespace, name), 0.0))
        services = Services(
            state=self._state,
            writer=writer,
            workers=self._workers,
            targets=self._targets,
            clock=clock,
            events=events,
            reporter=Reporter(self._state, writer, events, clock),
            executor=Executor(self._state, writer, events, clock),
            nodes=NodeTaints(self._api, writer, events, clock, limit=settings.taint_after_gpu_errors),
        )
        self._reconciler = Reconciler(services, settings.images)
        self._leads = asyncio.Event()
        self._resync_asked = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when a task ended that must not."""

    async def start(self) -> None:
        """Start all tasks. Raises ConfigError when the metrics port is taken."""
        await self._server.start(self._settings.metrics_host, self._settings.metrics_port)
        self._run("watch pods", self._state.pods.run())
        self._run("discover kinds", self._discover())
        self._run("hold the lease", self._lease.run())
        self._run("look at everything", self._resync())
        self._run("tell what is in the way", self._tell())
        for number in range(self._settings.workers):
            self._run(f"worker {number}", self._work())

    async def stop(self) -> None:
        """Stop all tasks and hand the lease over."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            await self._lease.release()
        except ClusterError as error:
            log.warning("the lease was not released, another replica waits for its end: %s", error)
        await self._workers.close()
        await self._server.stop()
        await self._api.close()

    def seen(self, resource: Json) -> None:
        """A ModelDeployment is there, or is another one than before."""
        self._state.put_resource(resource)

    def gone(self, resource: Json) -> None:
        """A ModelDeployment was deleted."""
        self._state.remove_resource(key_of(resource))

    def events_missed(self) -> None:
        """Whoever tells of ModelDeployments started anew: list them now, and count it like any watch that broke."""
        self._metrics.watch_restarted(MODEL_DEPLOYMENT.resource)
        self._resync_asked.set()

    def trouble(self) -> str | None:
        """Why this replica could not lead just now; None when it could."""
        return self._state.trouble()

    def show(self, metrics: CollectorRegistry) -> None:
        """Have ``metrics`` on this operator's page, too."""
        self._metrics.include(metrics)

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self.failed.done():
            log.error("%s failed", task.get_name(), exc_info=error)
            self.failed.set_exception(error)

    def _has_changed(self, key: Key) -> None:
        self._queue.add(key, GATHER_SECONDS)

    def _lead(self, leading: bool) -> None:
        self._metrics.is_leader.set(int(leading))
        if leading:
            self._leads.set()
            self._add_all(self._state.deployments())
        else:
            self._leads.clear()
            self._targets.stand_by()

    def _add_all(self, keys: Iterable[Key], over_seconds: float = 0.0) -> None:
        """Have all ``keys`` looked at, spread evenly over a time."""
        everyone = list(keys)
        for number, key in enumerate(everyone):
            self._queue.add(key, over_seconds * number / len(everyone))

    async def _discover(self) -> None:
        """Follow which kinds the cluster has, and watch those that we make."""
        while True:
            try:
                available = await discover(self._api, CHILDREN)
            except ClusterError as error:
                log.warning("can't find out which kinds the cluster has: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            if available != self._state.available:
                new: tuple[WatchCache[Json], ...] = self._state.see_kinds(available)
                for cache in new:
                    self._run(f"watch {cache.kind.resource}", cache.run())
                self._add_all(self._state.deployments())
            await asyncio.sleep(DISCOVERY_SECONDS)

    async def _resync(self) -> None:
        """List ModelDeployments now and then: events may have been missed, and what fails silently shows."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.resync_seconds):
                    await self._resync_asked.wait()
            self._resync_asked.clear()
            try:
                found, _ = await self._api.list(
                    MODEL_DEPLOYMENT.collection(self._settings.namespace), resource=MODEL_DEPLOYMENT.resource
                )
            except ClusterError as error:
                log.warning("can't list ModelDeployments: %s", error)
                await asyncio.sleep(PAUSE_SECONDS)
                self._resync_asked.set()
                continue
            for resource in found:
                self._state.put_resource(resource)
            keys = {key_of(resource) for resource in found}
            for key in set(self._state.deployments()) - keys:
                self._state.remove_resource(key)
            self._add_all(keys, over_seconds=self._settings.resync_seconds / 2)

    async def _tell(self) -> None:
        """While not everything can be seen, no pass runs: say why on every ModelDeployment."""
        while True:
            await asyncio.sleep(TELL_SECONDS)
            trouble = self._state.trouble()
            if trouble is None or not self._leads.is_set():
                continue
            for key in self._state.deployments():
                try:
                    await self._reconciler.cannot_see(key, trouble)
                except ClusterError as error:
                    log.warning("%s/%s: %s", *key, error)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._leads.wait()
            if self._state.trouble() is not None:
                # A pass that sees half of the cluster would do harm.
                await asyncio.sleep(SYNC_POLL_SECONDS)
                continue
            key = await self._queue.get()
            start = loop.time()
            try:
                outcome = await self._pass(key)
            finally:
                self._queue.done(key)
            self._metrics.reconciled(outcome, loop.time() - start)

    async def _pass(self, key: Key) -> str:
        try:
            again = await self._reconciler.reconcile(key)
        except NotLeader:
            # The lease may be renewed a moment later without having been another's.
            self._queue.add(key, PAUSE_SECONDS)
            return "not_leader"
        except ClusterError as error:
            pause = self._queue.retry(key)
            log.warning("%s/%s: %s; again in %.1f s", *key, error, pause)
            return "failed"
        except Exception:  # the root of a pass: a bug in one must not stop the others
            pause = self._queue.retry(key)
            log.exception("%s/%s: this should not happen; again in %.1f s", *key, pause)
            return "bug"
        self._queue.succeeded(key)
        if again is not None:
            self._queue.add(key, again)
        return "done"
