"""The planner of a whole operator: one task for each ModelDeployment that is planned for, fed by the operator's passes.

A pass says what it sees and takes the orders that hold; the task reads metrics at its interval, decides, and asks for a
pass when something is to be done. Only the replica that leads makes passes, so only it plans.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from paceline.api import labels
from paceline.api.conditions import ConditionType, Finding, Reason
from paceline.api.v1alpha1 import ConditionStatus, ModelDeployment
from paceline.api.v1alpha1.scaling import ScalingMode
from paceline.api.v1alpha1.status import SloStatus
from paceline.api.wire import EngineState
from paceline.clock import Clock
from paceline.planner.deployment import DeploymentPlanner, Step
from paceline.planner.limits import limited
from paceline.planner.measured import EngineFact
from paceline.planner.metrics import PlannerMetrics
from paceline.planner.recorder import Recorder
from paceline.planner.sharing import Quota
from paceline.planner.source import MetricsSource, Reading, Router
from paceline.planner.wellness import wellness
from paceline.policy.lifecycle.observed import Pod
from paceline.policy.lifecycle.orders import Orders, Situation, engines_held, standing_counts
from paceline.policy.lifecycle.plan import default_counts
from paceline.policy.status import ScalingView

SLO_SECONDS: Final = 60.0
"""Time between two figures of attainment in the status: it is no monitoring system."""
FAILED_SECONDS: Final = 30.0
"""Pause after a step that failed for a reason of our own."""
FIRST_LOOK_SECONDS: Final = 1.0
"""A deployment that is new is looked at so soon: the first page only says where counting begins."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Followed:
    """One deployment."""

    situation: Situation
    planner: DeploymentPlanner
    task: asyncio.Task[None] | None = None
    deciding: bool = False
    told: tuple[object, ...] = ()
    """What the last pass was asked for."""
    slo: SloStatus | None = None
    slo_at: float = 0.0
    wellness: Finding | None = None


class PlannerTargets:
    """See :class:`paceline.controller.reconcile.Targets`. ``direct`` reads routers themselves: it finds the request
    that wakes a sleeping deployment sooner than Prometheus would.
    """

    def __init__(
        self,
        source: MetricsSource,
        direct: MetricsSource,
        clock: Clock,
        metrics: PlannerMetrics,
        *,
        quota: Quota | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self._source = source
        self._direct = direct
        self._clock = clock
        self._metrics = metrics
        self._quota = quota
        self._recorder = recorder
        self._followed: dict[tuple[str, str], _Followed] = {}
        self._ask: Callable[[str, str], None] = lambda _namespace, _name: None

    @property
    def metrics(self) -> PlannerMetrics:
        """What it counts."""
        return self._metrics

    def ask_for_passes(self, ask: Callable[[str, str], None]) -> None:
        """``ask`` is called with namespace and name of a deployment for which something is to be done."""
        self._ask = ask

    def orders(self, situation: Situation) -> Orders:
        """What to do now; takes note of what is there."""
        md = situation.md
        key = (md.metadata.namespace, md.metadata.name)
        if md.spec.scaling.mode is ScalingMode.OFF:
            self.forget(*key)
            return Orders(default_counts(situation.pools))
        one = self._followed.get(key)
        if one is None:
            one = _Followed(situation, DeploymentPlanner(md, standing_counts(situation)))
            self._followed[key] = one
            one.task = asyncio.create_task(self._follow(key, one), name=f"plan {key[0]}/{key[1]}")
        one.situation = situation
        if not one.deciding:
            self._configure(key, one)
            if md.spec.scaling.mode is ScalingMode.RECOMMEND:
                one.planner.hold(standing_counts(situation, totals=situation.edited or None))
        return one.planner.orders

    def view(self, md: ModelDeployment) -> ScalingView | None:
        """What the status is to say."""
        if md.spec.scaling.mode is ScalingMode.OFF:
            message = "spec.scaling.mode is Off: nobody looks, and minReplicas engines run."
            return ScalingView(_metrics_finding(ConditionStatus.UNKNOWN, Reason.SCALING_OFF, message), decides=False)
        one = self._followed.get((md.metadata.namespace, md.metadata.name))
        step = None if one is None else one.planner.last
        if one is None or step is None:
            return None
        blind = step.blind
        if blind is not None:
            message = f"The planner holds: {blind.message}."
            metrics = _metrics_finding(ConditionStatus.FALSE, blind.reason, message)
        else:
            metrics = _metrics_finding(ConditionStatus.TRUE, Reason.METRICS_SEEN, one.planner.guess_note)
        return ScalingView(
            metrics=metrics,
            limited=None if blind is not None else limited(step.decision, one.planner.settings),
            recommended=one.planner.recommended,
            decisions=tuple(one.planner.history),
            slo=one.slo,
            wellness=one.wellness,
        )

    def forget(self, namespace: str, name: str) -> None:
        """The deployment is gone, or nobody is to plan for it."""
        one = self._followed.pop((namespace, name), None)
        if one is None:
            return
        if one.task is not None:
            one.task.cancel()
        for source in (self._source, self._direct):
            source.forget(namespace, name)
        self._metrics.forget(namespace, name)
        if self._quota is not None:
            self._quota.forget((namespace, name))

    def stand_by(self) -> None:
        """Another replica leads: it begins with what the cluster shows, and so will this one if it leads again."""
        for key in list(self._followed):
            self.forget(*key)

    async def close(self) -> None:
        """Stop all tasks and close all connections."""
        tasks = [one.task for one in self._followed.values() if one.task is not None]
        self.stand_by()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._source.close()
        await self._direct.close()
        if self._recorder is not None:
            self._recorder.close()

    async def _follow(self, key: tuple[str, str], one: _Followed) -> None:
        await asyncio.sleep(FIRST_LOOK_SECONDS)
        while True:
            try:
                await self.step(*key)
                pause = one.planner.interval_seconds
            except Exception:  # the root of a task: a bug in one decision must not end all others
                log.exception("%s/%s: planning failed; again in %.0f s", *key, FAILED_SECONDS)
                pause = FAILED_SECONDS
            await asyncio.sleep(pause)

    async def step(self, namespace: str, name: str) -> None:
        """Look at one deployment and decide, once."""
        key = (namespace, name)
        one = self._followed[key]
        if self._quota is not None:
            # What others need and hold has changed meanwhile, and that asks for no pass of this one.
            self._configure(key, one)
        situation, planner = one.situation, one.planner
        routers = _routers(situation.pods)
        started = self._clock.monotonic()
        reading = await self._read(key, planner, routers)
        read = self._clock.monotonic()
        one.deciding = True
        try:
            step = await asyncio.to_thread(
                planner.look,
                reading,
                _facts(situation.pods),
                [router.name for router in routers],
                now=self._clock.wall(),
            )
        finally:
            one.deciding = False
        self._metrics.took(reading=read - started, deciding=self._clock.monotonic() - read)
        self._metrics.decided(namespace, name, planner, step)
        one.wellness = wellness(reading, (router.name for router in routers))
        self._note(key, one, step)
        if self._recorder is not None:
            self._recorder.write(key, planner, step)

    async def _read(self, key: tuple[str, str], planner: DeploymentPlanner, routers: Sequence[Router]) -> Reading:
        seconds = planner.window_seconds
        if planner.settings.idle_seconds is None or self._direct is self._source:
            return await self._source.read(*key, routers, seconds=seconds)
        # It may fall asleep: what routers say themselves is known by then.
        direct = await self._direct.read(*key, routers, seconds=seconds)
        return direct if planner.asleep else await self._source.read(*key, routers, seconds=seconds)

    def _note(self, key: tuple[str, str], one: _Followed, step: Step) -> None:
        """Log it, and ask for a pass if something is different now."""
        if step.news is not None:
            log.info("%s/%s: %s", *key, " ".join(step.words))
        elif step.blind is not None and (not one.told or one.told[-1] != step.blind.reason):
            log.warning("%s/%s: the planner holds: %s", *key, step.blind.message)
        attained, now = step.observation.attainment, self._clock.monotonic()
        slo_due = attained is not None and (one.slo is None or now - one.slo_at >= SLO_SECONDS)
        if attained is not None and slo_due:
            spec = one.planner.md.spec
            percent = int(100 * attained.both)
            one.slo_at = now
            one.slo = SloStatus(
                attainment_percent=percent,
                window_seconds=spec.scaling.demand_window_seconds,
                summary=f"{percent}% of {spec.slo.target_percent}%",
            )
        told = (
            one.planner.orders,
            one.planner.recommended,
            tuple(one.planner.history),
            one.slo,
            one.wellness,
            None if step.blind is None else step.blind.reason,
        )
        if told != one.told:
            one.told = told
            self._ask(*key)

    def _configure(self, key: tuple[str, str], one: _Followed) -> None:
        md, limit = one.situation.md, None
        if self._quota is not None:
            engines = engines_held(one.situation)
            share = self._quota.share(key, one.planner, engines=engines, now=self._clock.wall())
            limit, one.planner.quota_note = share.gpus, share.note
        if md is not one.planner.md or limit != one.planner.gpu_limit:
            one.planner.configure(md, gpu_limit=limit)


def _routers(pods: Sequence[Pod]) -> list[Router]:
    return [
        Router(pod.name, pod.ip, pod.admin_port)
        for pod in sorted(pods, key=lambda pod: pod.name)
        if pod.component == labels.COMPONENT_ROUTER and pod.ready and not pod.deleting and pod.ip
    ]


def _facts(pods: Sequence[Pod]) -> list[EngineFact]:
    return [
        EngineFact(pod.name, pod.aim, _state(pod), pod.created, changing=pod.next_role is not None)
        for pod in sorted(pods, key=lambda pod: pod.name)
        if pod.component == labels.COMPONENT_ENGINE and not pod.finished
    ]


def _state(pod: Pod) -> EngineState:
    if pod.deleting or pod.asked_to_drain:
        return EngineState.DRAINING
    return EngineState.READY if pod.ready else EngineState.STARTING


def _metrics_finding(status: ConditionStatus, reason: Reason, message: str) -> Finding:
    return Finding(ConditionType.METRICS_AVAILABLE, status, reason, message)
