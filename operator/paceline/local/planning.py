"""The planner of the local runtime: the operator's own, with the router's page for metrics and processes for pods.

Started by ``paceline up`` where nobody has fixed the number of engines. Its clock is that of the engines: emulated ones
may run faster than the hardware that they stand for, and everything that the policy knows is in their time.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from paceline.api.v1alpha1 import ModelDeployment
from paceline.api.v1alpha1.scaling import ScalingMode
from paceline.api.wire import EngineState, Role
from paceline.clock import Clock, FasterClock
from paceline.local.cluster import EngineView, LocalCluster
from paceline.local.files import replace
from paceline.local.kubelet import PodPhase
from paceline.local.pods import LOOPBACK
from paceline.planner.deployment import DeploymentPlanner, Step
from paceline.planner.measured import EngineFact
from paceline.planner.recorder import Recorder
from paceline.planner.scrape import RouterScraper
from paceline.planner.settings import engine_models
from paceline.planner.source import Router

FILE: Final = "planner.json"
"""In the run directory: what ``paceline explain --run-dir`` prints."""
SHORTEST_PAUSE_SECONDS: Final = 0.25
MAX_STEPS: Final = 10_000


class LocalPlanner:
    """Looks, decides and has the cluster obey until cancelled. ``said`` is called with each decision that changes
    something.
    """

    def __init__(
        self,
        md: ModelDeployment,
        cluster: LocalCluster,
        clock: Clock,
        *,
        speed: float,
        profile: str | None,
        folder: Path,
        said: Callable[[Step], None],
        recorder: Recorder | None = None,
    ) -> None:
        self._md = md
        self._cluster = cluster
        self._speed = speed
        self._clock = clock
        self._engine_clock = FasterClock(clock, speed)
        self._begin = clock.monotonic()
        self._folder = folder
        self._said = said
        self._recorder = recorder
        counts: dict[Role, int] = {}
        for pool in cluster.plan.wanted.values():
            counts |= pool
        self.planner = DeploymentPlanner(md, counts, profile=profile)
        self._first = dict(self.planner.counts)
        self.steps: deque[tuple[float, dict[Role, int]]] = deque(maxlen=MAX_STEPS)
        """When something changed, in seconds of the engines since the start, and the counts from then on."""

    async def run(self) -> None:
        """The task to cancel."""
        source = RouterScraper(self._engine_clock)
        due = self._clock.monotonic()
        try:
            while True:
                await self.step(source)
                # From when it was due: where engines run faster than their hardware a look takes seconds of theirs.
                due += self.planner.interval_seconds / self._speed
                now = self._clock.monotonic()
                due = max(due, now + SHORTEST_PAUSE_SECONDS)
                await asyncio.sleep(due - now)
        finally:
            await source.close()

    async def step(self, source: RouterScraper) -> Step:
        """Look once."""
        name = self._md.metadata.name
        router = self._cluster.router
        ready = router.phase is PodPhase.READY
        routers = [Router(router.name, LOOPBACK, router.ports.admin)] if ready else []
        reading = await source.read("local", name, routers, seconds=self.planner.window_seconds)
        facts = [self._fact(view) for view in self._cluster.engines]
        step = await asyncio.to_thread(
            self.planner.look,
            reading,
            facts,
            [one.name for one in routers],
            now=self._engine_clock.wall(),
            speed=self._speed,
        )
        if self.planner.mode is ScalingMode.AUTO:
            self._cluster.obey(self.planner.orders)
        if step.news is not None:
            self.steps.append((self._engine_clock.monotonic(), dict(self.planner.counts)))
            self._said(step)
        if self._recorder is not None:
            self._recorder.write(("local", name), self.planner, step)
        self._publish(step)
        return step

    def changed_to(self) -> dict[Role, int] | None:
        """The engines that were asked for last; None if they are those of the beginning."""
        if self.planner.mode is not ScalingMode.AUTO or not self.steps or self.steps[-1][1] == self._first:
            return None
        return self.steps[-1][1]

    def _fact(self, view: EngineView) -> EngineFact:
        ready = view.status.phase is PodPhase.READY
        state = EngineState.READY if ready else EngineState.STARTING
        since = (view.created - self._begin) * self._speed
        created = self._engine_clock.wall() - self._engine_clock.monotonic() + since
        state = EngineState.DRAINING if view.leaving else state
        role, changing = view.next_role or view.role, view.next_role is not None
        return EngineFact(view.status.name, role, state, created, changing=changing)

    def _publish(self, step: Step) -> None:
        """For ``paceline explain``."""
        document = as_document(self._md, self.planner, step)
        replace(self._folder / FILE, json.dumps(document, indent=2).encode())


def is_planned(md: ModelDeployment, *, profile: str | None, fixed: bool) -> bool:
    """Whether somebody is to plan. ``fixed``: the user has said how many engines there are to be; ``profile``: what
    engines are emulated by. Real engines of which nothing is known can't be planned for.
    """
    if fixed or md.spec.scaling.mode is ScalingMode.OFF:
        return False
    return profile is not None or engine_models(md) is not None


def as_document(md: ModelDeployment, planner: DeploymentPlanner, step: Step) -> dict[str, Any]:
    """What a status would say of the planner, as a resource of its own."""
    blind = step.blind
    condition = {
        "type": "MetricsAvailable",
        "status": "True" if blind is None else "False",
        "reason": "MetricsSeen" if blind is None else blind.reason.value,
        "message": "" if blind is None else f"The planner holds: {blind.message}.",
    }
    history = [one.model_dump(mode="json", by_alias=True) for one in planner.history]
    recommended = planner.recommended
    return {
        "metadata": {"name": md.metadata.name, "namespace": md.metadata.namespace},
        "spec": {"scaling": {"mode": planner.mode.value}},
        "status": {
            "conditions": [condition],
            "roles": {role.value: {"desired": count} for role, count in planner.counts.items()},
            "scaling": {
                "recommended": None if recommended is None else recommended.model_dump(mode="json", by_alias=True),
                "history": history,
            },
        },
        "now": list(step.words),
    }
