"""The embedded cluster: planned pods kept running, and their roles published in the fleet file.

``paceline up`` and the tests drive it. It is level-triggered: whatever changes, one pass looks at all pods, assigns
roles with the function that serves a real cluster too, and publishes the fleet if that differs from what the router
has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from paceline.api import labels, wire
from paceline.clock import Clock
from paceline.errors import EngineError, LocalRuntimeError
from paceline.local.fleet import FleetFile
from paceline.local.guard import Guard
from paceline.local.kubelet import IdleProbe, PodPhase, PodRunner, PodStatus, Probe, RestartPolicy
from paceline.local.logs import PodLog
from paceline.local.plan import LocalPlan, PodPlan
from paceline.local.pods import LOOPBACK
from paceline.local.targets import FILE as TARGETS
from paceline.local.targets import Target, TargetsFile
from paceline.policy.lifecycle.orders import Orders, kept_roles
from paceline.policy.roles import EngineRole, assign_roles

log = logging.getLogger(__name__)

RECONCILE_SECONDS: Final = 1.0
"""Longest time between two passes when nothing seems to change."""
ROUTER_LEARNS_SECONDS: Final = 0.5
"""Time for the router to see that an engine is to get nothing more: ten looks at the fleet file."""
IDLE_LOOK_SECONDS: Final = 0.1
"""Time between two looks at an engine that is to change its role when it has nothing left to do."""
STOP_SECONDS: Final = 10.0
"""How long pods may take to go at the end, whatever their drain time: whoever stops ``up`` waits for it."""


@dataclass(frozen=True, slots=True)
class EngineView:
    """An engine as the table and the report show it."""

    status: PodStatus
    pool: str
    role: wire.Role | None
    created: float = 0.0
    """When it was made, on the cluster's monotonic clock."""
    leaving: bool = False
    """Whether it finishes what it has and goes."""
    next_role: wire.Role | None = None
    """The role that it takes once it has finished what it has."""


class _Engine:
    """An engine's plan, its runner, and its role label."""

    __slots__ = ("created", "leaving", "next_role", "plan", "role", "runner")

    def __init__(self, plan: PodPlan, runner: PodRunner, created: float) -> None:
        self.plan = plan
        self.runner = runner
        self.role = plan.fixed_role
        self.next_role: wire.Role | None = None
        self.created = created
        self.leaving = False

    @property
    def ready(self) -> bool:
        return self.runner.status.phase is PodPhase.READY


class LocalCluster:
    """Runs a plan: :meth:`start`, :meth:`wait_ready`, then :meth:`stop`; :meth:`kill` cuts a stop short."""

    def __init__(
        self, plan: LocalPlan, *, log_dir: Path, probe: Probe, idle: IdleProbe, guard: Guard, clock: Clock
    ) -> None:
        self.plan = plan
        self._idle = idle
        self.loads: Mapping[str, float] = {}
        """Running sequences by engine, as scraped last. The engine with the fewest changes role first."""
        self._fleet = FleetFile(plan.fleet_path)
        self._targets = TargetsFile(
            plan.fleet_path.with_name(TARGETS), namespace=plan.namespace, deployment=plan.deployment
        )
        self._unpublished = ""
        """Why the fleet could not be published last; empty when it was."""
        self._guard = guard
        self._clock = clock
        self._changed = asyncio.Event()

        def runner(pod: PodPlan) -> PodRunner:
            return PodRunner(
                pod.name,
                launch=pod.launch,
                probe=probe,
                policy=RestartPolicy(pod.start_deadline_seconds),
                log=PodLog(log_dir / f"{pod.name}.log"),
                guard=guard,
                clock=clock,
                changed=self._changed.set,
            )

        self._make_runner = runner
        self._engines = [_Engine(pod, runner(pod), clock.monotonic()) for pod in plan.engines]
        self._made = len(self._engines)
        """Engines so far: numbers are never used again."""
        self._router = runner(plan.router)
        self._orders: Orders | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._drains: set[asyncio.Task[None]] = set()
        self._changes: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start all pods. They are up when :meth:`wait_ready` returns."""
        self.reconcile()
        for runner in self._runners:
            runner.start()
        self._tasks = [
            asyncio.create_task(self._reconcile_forever(), name="reconcile"),
            asyncio.create_task(self._guard.keep(), name="keep the guardian"),
        ]

    @property
    def _runners(self) -> tuple[PodRunner, ...]:
        return (*(engine.runner for engine in self._engines), self._router)

    def obey(self, orders: Orders) -> None:
        """Have ``orders`` carried out from now on: engines start, change roles, or drain and go."""
        self._orders = orders
        self.reconcile()

    async def wait_ready(self, progress: Callable[[], None], period_seconds: float = 0.1) -> None:
        """Return when every pod is ready. ``progress`` is called after each look.

        Raises EngineError with the last words of a pod that was given up.
        """
        while True:
            self.check(starting=True)
            progress()
            if all(runner.status.phase is PodPhase.READY for runner in self._runners):
                return
            await asyncio.sleep(period_seconds)

    def check(self, *, starting: bool = False) -> None:
        """Raise if this cluster can't serve: what stopped its own tasks, or EngineError when the router or all engines
        were given up. While ``starting`` one engine is enough.
        """
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error
        for runner in self._runners:
            if runner.error is not None:
                raise runner.error
        failed = [runner for runner in self._runners if runner.status.phase is PodPhase.FAILED]
        if failed and (starting or self._router in failed or (len(failed) == len(self._engines) and not self._planned)):
            others = f"\n  So it went with {len(failed) - 1} more." if len(failed) > 1 else ""
            raise EngineError(failed[0].failure + others)

    async def stop(self) -> None:
        """Stop the router first, so that it finishes what it has, then the engines."""
        background = (*self._tasks, *self._changes)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self._router.stop(STOP_SECONDS)
        await asyncio.gather(*(engine.runner.stop(STOP_SECONDS) for engine in self._engines))
        await asyncio.gather(*self._drains, return_exceptions=True)

    def kill(self) -> None:
        """Kill all pods at once; :meth:`stop` then returns soon."""
        for runner in self._runners:
            runner.kill()

    @property
    def url(self) -> str:
        """Of the endpoint, without a path."""
        return f"http://{LOOPBACK}:{self.plan.endpoint_port}"

    @property
    def router(self) -> PodStatus:
        """The router's pod."""
        return self._router.status

    @property
    def engines(self) -> tuple[EngineView, ...]:
        """All engines, in the order of the plan."""
        return tuple(
            EngineView(
                engine.runner.status, engine.plan.pool, engine.role, engine.created, engine.leaving, engine.next_role
            )
            for engine in self._engines
        )

    def reconcile(self) -> None:
        """One pass: assign roles to what is ready, and publish the fleet. Raises LocalRuntimeError if that was never
        possible; a disk that is full meanwhile keeps the router at the last fleet.
        """
        orders = self._orders
        for pool, roles in self.plan.wanted.items():
            wanted = roles if orders is None else {role: orders.counts.get(role, 0) for role in roles}
            members = {engine.plan.name: engine for engine in self._engines if engine.plan.pool == pool}
            if orders is not None:
                self._resize(pool, wanted, orders)
            ready = [
                EngineRole(name, engine.next_role or engine.role, self.loads.get(name, 0.0))
                for name, engine in members.items()
                if engine.ready and not engine.leaving
            ]
            if orders is not None and len(roles) > 1:
                for name, role in kept_roles(ready, wanted, orders.roles).items():
                    self._give(members[name], role, members.values())
                continue
            for change in assign_roles(ready, wanted):
                self._give(members[change.engine], change.after, members.values())
        self._publish()

    def _publish(self) -> None:
        first = self._fleet.fleet is None
        try:
            self._fleet.write(tuple(_endpoint(engine) for engine in self._engines if engine.runner.status.starts))
            self._targets.write(self._pages())
        except LocalRuntimeError as error:
            if first:
                raise
            if self._unpublished != str(error):
                log.warning("%s The router goes on with the last fleet; each pass tries again.", error)
            self._unpublished = str(error)
        else:
            self._unpublished = ""

    def _give(self, engine: _Engine, role: wire.Role, fleet: Collection[_Engine]) -> None:
        """Have an engine take a role: at once, unless it is to finish first what it has. A role that nobody serves does
        not wait for that.
        """
        if role is engine.next_role:
            return
        served = any(other.role is role and other.ready for other in fleet)
        if role is engine.role or engine.role is None or not (self.plan.drain_first and served):
            engine.role, engine.next_role = role, None
            return
        engine.next_role = role
        task = asyncio.create_task(self._change(engine, role), name=f"change {engine.plan.name} to {role}")
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)

    async def _change(self, engine: _Engine, role: wire.Role) -> None:
        """Wait until an engine has nothing left of its former role, or has had its time, and give it the new one."""
        deadline = self._clock.monotonic() + self.plan.drain_seconds
        await asyncio.sleep(ROUTER_LEARNS_SECONDS)
        # What an engine has in flight sets no event here.
        while self._clock.monotonic() < deadline and not await self._idle(engine.runner.status.ports.admin):  # noqa: ASYNC110
            await asyncio.sleep(IDLE_LOOK_SECONDS)
        if engine.next_role is role:
            engine.role, engine.next_role = role, None
            self._changed.set()

    @property
    def _planned(self) -> bool:
        return self._orders is not None

    def _resize(self, pool: str, wanted: Mapping[wire.Role, int], orders: Orders) -> None:
        """Start what is missing, and let go what is too many: those named first, then those that serve nobody yet."""
        staying = [engine for engine in self._engines if engine.plan.pool == pool and not engine.leaving]
        hopeless = [engine for engine in staying if engine.plan.name in orders.leaving and not engine.ready]
        rest = [engine for engine in staying if engine not in hopeless]
        goal = sum(wanted.values())
        rest.sort(key=lambda engine: (engine.plan.name not in orders.leaving, engine.ready, -engine.created))
        for engine in (*hopeless, *rest[: max(0, len(rest) - goal)]):
            engine.leaving = True
            task = asyncio.create_task(self._drain(engine), name=f"drain {engine.plan.name}")
            self._drains.add(task)
            task.add_done_callback(self._drains.discard)
        for _ in range(goal - len(rest)):
            if self.plan.more is None:
                return
            plan = self.plan.more(pool, self._made)
            self._made += 1
            engine = _Engine(plan, self._make_runner(plan), self._clock.monotonic())
            self._engines.append(engine)
            engine.runner.start()

    async def _drain(self, engine: _Engine) -> None:
        """Let an engine finish what it has, once the router sends it nothing more."""
        await asyncio.sleep(ROUTER_LEARNS_SECONDS)
        await engine.runner.stop(self.plan.drain_seconds + STOP_SECONDS)
        self._engines.remove(engine)
        self._changed.set()

    def _pages(self) -> Iterator[Target]:
        """Every page of metrics: an engine has two, vLLM's own and that of its worker."""
        for engine in self._engines:
            status = engine.runner.status
            for port in (status.ports.api, status.ports.admin) if status.starts else ():
                yield Target(
                    f"{LOOPBACK}:{port}",
                    status.name,
                    labels.COMPONENT_ENGINE,
                    pool=engine.plan.pool,
                    role=str(engine.role or ""),
                    revision=engine.plan.revision,
                )
        router = self._router.status
        if router.starts:
            yield Target(f"{LOOPBACK}:{router.ports.admin}", router.name, labels.COMPONENT_ROUTER)

    async def _reconcile_forever(self) -> None:
        while True:
            # Not wait_for: before Python 3.12 that loses a cancellation which comes together with the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(RECONCILE_SECONDS):
                    await self._changed.wait()
            self._changed.clear()
            self.reconcile()


def _endpoint(engine: _Engine) -> wire.EngineEndpoint:
    status = engine.runner.status
    ports = status.ports
    state = wire.EngineState.READY if engine.ready else wire.EngineState.STARTING
    return wire.EngineEndpoint(
        name=status.name,
        host=LOOPBACK,
        port=ports.api,
        role=engine.role or wire.Role.BOTH,
        state=wire.EngineState.DRAINING if engine.leaving or engine.next_role is not None else state,
        start_id=status.start_id,
        revision=engine.plan.revision,
        kv_events=f"tcp://{LOOPBACK}:{ports.kv_events}",
        kv_replay=f"tcp://{LOOPBACK}:{ports.kv_replay}",
        data_parallel=engine.plan.ranks,
        pool=engine.plan.pool,
    )
