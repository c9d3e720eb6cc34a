"""One pass over one ModelDeployment: read caches, compute, write differences, report. Called by the operator's
workers.

A pass starts from what the cluster shows and remembers nothing that matters, so it may end between any two writes and
be done again by another process.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from paceline.api import labels
from paceline.api.conditions import ConditionType, Finding, Reason, merge
from paceline.api.v1alpha1 import ConditionStatus, ModelDeployment
from paceline.api.v1alpha1.scaling import ScalingMode
from paceline.clock import Clock
from paceline.controller.acceptance import Accepted, AcceptedSpecs
from paceline.controller.api import Json
from paceline.controller.apply import AppliedAsIs, differences, edited_by_hand
from paceline.controller.events import Events
from paceline.controller.execute import Executor
from paceline.controller.kinds import BY_ID, CONFIG_MAP, DEPLOYMENT, WORKLOADS, kind_of
from paceline.controller.nodes import NodeTaints
from paceline.controller.refusals import ApiError, Conflict, Forbidden, Invalid, NamespaceGoing, NotFound, NotLeader
from paceline.controller.report import Reporter, read_status
from paceline.controller.state import ClusterState, Key
from paceline.controller.workers import EngineWorkers
from paceline.controller.writer import Writer
from paceline.errors import ClusterError
from paceline.policy.lifecycle.actions import Action, CreateWorkload
from paceline.policy.lifecycle.garbage import unreferenced_config_maps
from paceline.policy.lifecycle.observed import Pod, Trouble, Workload, read_workload, workload_trouble
from paceline.policy.lifecycle.orders import Orders, Situation
from paceline.policy.lifecycle.plan import Plan, default_counts, plan_engines
from paceline.policy.resources import Images
from paceline.policy.resources.accepted import accepted_name
from paceline.policy.resources.router import address
from paceline.policy.status import RouterView, ScalingView, Seen, make_status, new_decisions

FIELDS_NAMED: Final = 3
"""Fields that a message about a hand-made edit names."""
CONFLICT_SECONDS: Final = 0.2
"""Pause before a pass that acted on an old version is done again: the watch has brought the new one by then."""

T = TypeVar("T")

log = logging.getLogger(__name__)


class Targets(Protocol):
    """Who says how many engines there should be, and which does what."""

    def orders(self, situation: Situation) -> Orders:
        """What to bring about, now."""
        ...

    def view(self, md: ModelDeployment) -> ScalingView | None:
        """What the status is to say of it."""
        ...

    def forget(self, namespace: str, name: str) -> None:
        """The ModelDeployment is gone."""
        ...

    def stand_by(self) -> None:
        """Another replica leads now."""
        ...

    def ask_for_passes(self, ask: Callable[[str, str], None]) -> None:
        """``ask`` is to be called with namespace and name of a ModelDeployment that needs a pass."""
        ...


class SpecTargets:
    """The minimum of every role, as the spec says: what holds where nobody plans."""

    def orders(self, situation: Situation) -> Orders:
        """See :class:`Targets`."""
        return Orders(default_counts(situation.pools))

    def view(self, md: ModelDeployment) -> ScalingView | None:
        """See :class:`Targets`."""
        del md
        return None

    def forget(self, namespace: str, name: str) -> None:
        """See :class:`Targets`."""

    def stand_by(self) -> None:
        """See :class:`Targets`."""

    def ask_for_passes(self, ask: Callable[[str, str], None]) -> None:
        """See :class:`Targets`."""


@dataclass(frozen=True, slots=True)
class Services:
    """What passes work with. Made once per process."""

    state: ClusterState
    writer: Writer
    workers: EngineWorkers
    targets: Targets
    clock: Clock
    events: Events
    reporter: Reporter
    executor: Executor
    nodes: NodeTaints


class Reconciler:
    """Makes the cluster true to one ModelDeployment at a time."""

    def __init__(self, services: Services, images: Images) -> None:
        self._services = services
        self._specs = AcceptedSpecs(images)
        self._as_is = AppliedAsIs()

    async def reconcile(self, key: Key) -> float | None:
        """One pass; seconds until the next one is due by itself. Raises ClusterError where it has to be done again."""
        state = self._services.state
        raw = state.resource(key)
        if raw is None:
            self._specs.forget(key)
            self._as_is.forget(key)
            self._services.targets.forget(*key)
            return None
        if raw["metadata"].get("deletionTimestamp") is not None:
            # Children go with their owner; engines drain on SIGTERM like on any other deletion of their pods.
            return None
        kept = state.child(key, CONFIG_MAP, accepted_name(raw["metadata"]["name"]))
        acceptance = self._specs.accept(key, raw, kept, state.available)
        if acceptance.accepted is None:
            await self._refuse(raw, acceptance.problem)
            return None
        work = _Pass(self._services, self._as_is, raw, key, acceptance.accepted)
        try:
            return await work.run(acceptance.problem)
        except NamespaceGoing:
            log.info("%s/%s goes with its namespace", *key)
            return None

    async def cannot_see(self, key: Key, trouble: str) -> None:
        """The operator can't work, and ``trouble`` says why: tell the user, and leave everything as it is."""
        raw = self._services.state.resource(key)
        if raw is not None:
            message = f"The operator can't see the whole cluster and waits: {trouble}"
            reason = Reason.FORBIDDEN if "Forbidden" in trouble else Reason.API_SERVER_TROUBLE
            await self._refuse(raw, Finding(ConditionType.PROGRESSING, ConditionStatus.FALSE, reason, message))

    async def _refuse(self, raw: Json, problem: Finding | None) -> None:
        """Nothing is done: say why."""
        reporter = self._services.reporter
        before, now, generation = read_status(raw), reporter.now(), raw["metadata"]["generation"]
        findings = [problem] if problem is not None else []
        findings += [Finding(ConditionType.READY, each.status, each.reason, each.message) for each in findings]
        after = before.model_copy(
            update={
                "observed_generation": generation,
                "conditions": merge(before.conditions, findings, now=now, generation=generation),
            }
        )
        await reporter.report(raw, before, after)


class _Pass:
    """The state of one pass. It ends with it."""

    def __init__(self, services: Services, as_is: AppliedAsIs, raw: Json, key: Key, accepted: Accepted) -> None:
        self._services = services
        self._state = services.state
        self._as_is = as_is
        self._raw = raw
        self._key = key
        self._accepted = accepted
        self._md = accepted.md
        self._children = accepted.children
        self._problems: list[Finding] = []
        self._failure: ClusterError | None = None
        self._ordered: Mapping[str, int] = {}
        """Sizes that workloads were given last, by name."""

    async def run(self, problem: Finding | None) -> float | None:
        if problem is not None:
            self._problems.append(problem)
        pods = self._state.pods_of(self._key)
        await self._services.nodes.look(self._raw, pods)
        leaving = [pod for pod in pods if pod.asked_to_drain and not pod.deleting and not pod.drained]
        changing = [pod for pod in pods if pod.next_role is not None and not (pod.asked_to_drain or pod.deleting)]
        workers = self._services.workers
        idle = await workers.drain(leaving) | await workers.idle(changing)
        uid = self._raw["metadata"]["uid"]
        found = self._state.owned(self._key, uid, *WORKLOADS)
        workloads = [read_workload(raw) for raw in found]
        self._ordered = {raw["metadata"]["name"]: size for raw in found if (size := ordered_size(raw)) is not None}
        edited = [one for one in workloads if self._ordered.get(one.name, one.replicas) != one.replicas]
        now = self._services.clock.wall()
        situation = Situation(
            md=self._md,
            pools=[engine.pool for engine in self._children.engines],
            workloads=workloads,
            pods=pods,
            status=read_status(self._raw),
            now=now,
            edited={one.pool: one.replicas for one in edited},
        )
        orders = self._services.targets.orders(situation)
        plan = plan_engines(
            self._md,
            self._children.engines,
            orders.counts,
            workloads=workloads,
            pods=pods,
            now=now,
            idle=idle,
            orders=orders,
        )
        if edited:
            for workload in edited:
                await self._tell_edited(workload, plan)
            return CONFLICT_SECONDS  # they have another version now than the plan was made on
        for manifest in (*self._accepted.supporting, *self._current_workloads(plan)):
            await self._attempt(self._apply, manifest)
        for action in plan.actions:
            await self._attempt(self._act, action)
        kept = self._state.owned(self._key, uid, CONFIG_MAP)
        for unused in unreferenced_config_maps(kept, self._accepted.supporting, found, pods):
            await self._attempt(self._remove_config_map, unused)
        await self._report(plan, pods)
        if isinstance(self._failure, Conflict):
            return CONFLICT_SECONDS
        if self._failure is not None:
            raise self._failure
        return plan.look_again_seconds

    def _current_workloads(self, plan: Plan) -> list[Json]:
        """Workloads of the wanted templates that exist, at the size that they have: in case somebody edited them."""
        current = [(view.name, view.current.workload) for view in plan.views]
        return [
            _sized(self._accepted.workloads[pool], workload.replicas, self._ordered.get(workload.name))
            for pool, workload in current
            if workload is not None and not workload.deleting
        ]

    async def _attempt(self, do: Callable[[T], Awaitable[None]], what: T) -> None:
        """Do one thing; what fails becomes a condition, and the rest goes on."""
        try:
            await do(what)
        except (NotLeader, NamespaceGoing):
            raise
        except NotFound as error:
            log.debug("%s; the next pass will see why", error)
            self._failure = self._failure or Conflict(error.verb, error.resource, error.code, error.reason, str(error))
        except Conflict as error:
            log.info("%s; done again on what is there now", error)
            self._failure = self._failure or error
        except ClusterError as error:
            log.warning("%s/%s: %s", *self._key, error)
            self._problems.append(_finding(error))
            if not isinstance(self._failure, ClusterError) or isinstance(self._failure, Conflict):
                self._failure = error

    async def _apply(self, wanted: Json) -> None:
        kind, name = kind_of(wanted), wanted["metadata"]["name"]
        found = self._state.child(self._key, kind, name)
        if found is not None:
            if self._as_is.is_current(self._key, kind.id, wanted, found) or not differences(wanted, found):
                return
            if edited := edited_by_hand(wanted, found):
                message = (
                    f"{kind.kind} {name} was changed by hand ({', '.join(edited[:FIELDS_NAMED])}); it is put back."
                )
                await self._services.events.write(self._raw, "ChildRestored", message, warning=True)
        answer = await self._services.writer.apply(kind, wanted)
        self._as_is.remember(self._key, kind.id, wanted, answer)
        self._state.caches[kind.id].put(answer)

    async def _act(self, action: Action) -> None:
        if not isinstance(action, CreateWorkload):
            await self._services.executor.carry_out(action, self._raw)
            return
        workload = self._accepted.workloads[action.pool]
        if f"{workload['apiVersion']}/{workload['kind']}" in self._state.available:
            await self._apply(_sized(workload, action.replicas, action.replicas))
            message = f"{workload['metadata']['name']} starts with {action.replicas} engines."
            await self._services.events.write(self._raw, "WorkloadCreated", message)

    async def _tell_edited(self, workload: Workload, plan: Plan) -> None:
        """Somebody scaled a workload by hand: say what comes of it, once."""
        goal = next((view.total for view in plan.views if view.name == workload.pool), 0)
        mode = self._md.spec.scaling.mode
        if goal == workload.replicas:
            reason, rest = "ReplicasAccepted", f"spec.scaling.mode {mode} leaves that to you"
        else:
            who = "minReplicas says" if mode is ScalingMode.OFF else "the planner's number is"
            if mode is ScalingMode.RECOMMEND:
                who = "the nearest that the spec allows is"
            reason, rest = "ReplicasPutBack", f"{who} {goal}, and that is put back. Change spec.pools or spec.scaling"
        message = f"{workload.name} was set to {workload.replicas} engines by hand; {rest}."
        # Before it is noted as told: an operator that ends in between tells it again rather than never.
        await self._services.events.write(self._raw, reason, message, warning=goal != workload.replicas)
        body = {
            "metadata": {
                "resourceVersion": workload.version,
                "annotations": {labels.REPLICAS: str(workload.replicas)},
            }
        }
        kind = BY_ID[workload.kind]
        self._state.caches[kind.id].put(
            await self._services.writer.merge(kind, self._key.namespace, workload.name, body)
        )

    async def _remove_config_map(self, which: tuple[str, str]) -> None:
        name, uid = which
        await self._services.writer.delete(CONFIG_MAP, self._key.namespace, name, uid)

    async def _report(self, plan: Plan, pods: Sequence[Pod]) -> None:
        reporter, before = self._services.reporter, read_status(self._raw)
        seen = Seen(
            views=plan.views,
            router=self._router(pods),
            revision=self._accepted.revision,
            engine_trouble=_engine_trouble(plan, pods),
            problems=tuple(self._problems),
            missing_kinds=self._children.missing,
            limited=any(view.total < sum(view.wanted.values()) for view in plan.views),
            scaling=self._services.targets.view(self._md),
        )
        after = make_status(self._md, before, seen, generation=self._raw["metadata"]["generation"], now=reporter.now())
        await reporter.report(self._raw, before, after)
        for decision in reversed(() if seen.scaling is None else new_decisions(before, seen.scaling)):
            recommended = self._md.spec.scaling.mode is ScalingMode.RECOMMEND
            reason = "ScalingRecommended" if recommended else "ScalingDecided"
            await self._services.events.write(self._raw, reason, decision.reason)

    def _router(self, pods: Sequence[Pod]) -> RouterView:
        service = self._children.router.service["metadata"]
        deployment = self._state.child(self._key, DEPLOYMENT, self._children.router.deployment["metadata"]["name"])
        status = (deployment or {}).get("status") or {}
        routers = [pod for pod in pods if pod.component == labels.COMPONENT_ROUTER and not pod.deleting]
        trouble = workload_trouble(status) or next((pod.trouble for pod in routers if pod.trouble), None)
        scheme, port = address(self._md)
        return RouterView(
            desired=self._md.spec.routing.replicas,
            ready=sum(pod.ready for pod in routers),
            trouble=trouble,
            endpoint=f"{scheme}://{service['name']}.{service['namespace']}.svc:{port}",
        )


def ordered_size(workload: Json) -> int | None:
    """The size that a workload was given last by an operator; None where nobody wrote it down."""
    text = (workload["metadata"].get("annotations") or {}).get(labels.REPLICAS, "")
    return int(text) if text.isdecimal() else None


def _sized(workload: Json, replicas: int, ordered: int | None) -> Json:
    metadata = workload["metadata"]
    if ordered is not None:
        metadata = {**metadata, "annotations": {**metadata["annotations"], labels.REPLICAS: str(ordered)}}
    return {**workload, "metadata": metadata, "spec": {**workload["spec"], "replicas": replicas}}


def _engine_trouble(plan: Plan, pods: Sequence[Pod]) -> tuple[Trouble, ...]:
    """What keeps engines from being ready, what concerns the wanted template first."""
    workloads = [group.workload for view in plan.views for group in view.groups if group.workload is not None]
    templates = {view.template for view in plan.views}
    members = [pod for pod in pods if pod.component != labels.COMPONENT_ROUTER and not pod.deleting and not pod.ready]
    ordered = sorted(members, key=lambda pod: (pod.template not in templates, pod.name))
    found = [workload.trouble for workload in workloads] + [pod.trouble for pod in ordered]
    return tuple(trouble for trouble in found if trouble is not None)


def _finding(error: ClusterError) -> Finding:
    """What a user reads about a request that failed."""
    if isinstance(error, Forbidden):
        if "exceeded quota" in str(error):
            return Finding(ConditionType.PROGRESSING, ConditionStatus.FALSE, Reason.QUOTA_EXCEEDED, str(error))
        message = f"The operator may not {error.verb} {error.resource}. Allow it in the operator's ClusterRole. {error}"
        return Finding(ConditionType.PROGRESSING, ConditionStatus.FALSE, Reason.FORBIDDEN, message)
    if isinstance(error, Invalid):
        message = f"The API server refuses a child that the spec asks for. {error}"
        return Finding(ConditionType.ACCEPTED, ConditionStatus.FALSE, Reason.CHILD_REFUSED, message)
    reason = Reason.API_SERVER_TROUBLE
    verb = f"{error.verb} {error.resource}" if isinstance(error, ApiError) else "a request"
    return Finding(ConditionType.PROGRESSING, ConditionStatus.FALSE, reason, f"The API server fails {verb}. {error}")
