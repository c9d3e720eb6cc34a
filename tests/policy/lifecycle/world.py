"""A small cluster in memory for the lifecycle policy: workloads that make and remove pods as Kubernetes does.

It is as nasty as the real one: a ReplicaSet prefers unready pods when it removes some, but which of several is not
ours to say; pods take time to start and to go; writes may be lost with the operator that makes them.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from paceline.api import labels
from paceline.api.v1alpha1 import ModelDeployment
from paceline.api.wire import Role
from paceline.policy.lifecycle.actions import (
    Action,
    BeginDrain,
    BeginRoleChange,
    CreateWorkload,
    DeletePod,
    DeleteWorkload,
    FinishDrain,
    OpenGate,
    SetReplicas,
    SetRole,
)
from paceline.policy.lifecycle.observed import Pod, Workload
from paceline.policy.lifecycle.plan import Plan, default_counts, plan_engines
from paceline.policy.lifecycle.view import GARBAGE_SECONDS
from paceline.policy.resources import EngineChildren, children
from tests.api.documents import deployment

KIND = "apps/v1/Deployment"
GARBAGE_SHARE = 0.3
"""Of the pods whose owner is gone that garbage collection finds in one step."""
SEEN_LATE_SECONDS = 2.5
"""How old what a workload knows of its pods may be when it acts, which is a second after it was told to."""


@functools.cache
def small(
    *,
    prefill: int = 1,
    decode: int = 1,
    most: int = 8,
    budget: int | None = None,
    image: str = "one",
    hardware: tuple[str, str] = ("gpu", "gpu"),
    drain_seconds: int = 30,
    drain_first: bool = False,
) -> ModelDeployment:
    """Engines of one accelerator each. The same ``hardware`` for both roles makes one pool of flexible engines."""

    def pool(count: int, product: str) -> dict[str, object]:
        return {"minReplicas": count, "maxReplicas": most, "accelerator": {"count": 1, "product": product}}

    return deployment(
        pools={"prefill": pool(prefill, hardware[0]), "decode": pool(decode, hardware[1])},
        engine={"image": image, "startDeadlineSeconds": 60, "drainSeconds": drain_seconds},
        scaling={
            **({"gpuBudget": budget} if budget else {}),
            **({"roleChangePolicy": "DrainFirst"} if drain_first else {}),
        },
    )


_made: dict[int, tuple[ModelDeployment, tuple[EngineChildren, ...]]] = {}


def _engines(identity: int, md: ModelDeployment) -> tuple[EngineChildren, ...]:
    """Builders are pure, and a state machine calls them thousands of times."""
    if identity not in _made:
        _made[identity] = (md, children(md).engines)
    return _made[identity][1]


@dataclass
class World:
    """The cluster, the operator's view of it, and a record of what went wrong in it."""

    md: ModelDeployment
    dice: random.Random = field(default_factory=lambda: random.Random(0))
    now: float = 1_000_000.0
    pods: dict[str, Pod] = field(default_factory=dict)
    workloads: dict[str, Workload] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    """Pods with work in flight."""
    bad_images: set[str] = field(default_factory=set)
    """Images whose engines never get ready."""
    harm: list[str] = field(default_factory=list)
    """What must never happen."""
    owners: dict[str, str] = field(default_factory=dict)
    """Pods by name to the workload that made them, by its uid."""
    gone: dict[str, float] = field(default_factory=dict)
    """When workloads were deleted, by uid."""
    serial: int = 0

    @property
    def engines(self) -> tuple[EngineChildren, ...]:
        return _engines(id(self.md), self.md)

    # The operator.

    def plan(self, counts: Mapping[Role, int] | None = None) -> Plan:
        pools = [engine.pool for engine in self.engines]
        idle = {
            pod.name
            for pod in self.pods.values()
            if (pod.asked_to_drain or pod.next_role is not None) and pod.name not in self.busy
        }
        return plan_engines(
            self.md,
            self.engines,
            counts or default_counts(pools),
            workloads=tuple(self.workloads.values()),
            pods=tuple(self.pods.values()),
            now=self.now,
            idle=frozenset(idle),
        )

    def operate(self, *, killed_after: int | None = None) -> tuple[Action, ...]:
        """One pass of an operator that may be killed after so many writes."""
        actions = self.plan().actions
        for action in actions[:killed_after]:
            self.do(action)
        return actions

    def do(self, action: Action) -> None:
        match action:
            case BeginRoleChange(name, _, role):
                self._edit(name, next_role=role, change_started=self.now)
            case SetRole(name, _, role):
                self._edit(name, role=role, next_role=None, change_started=None)
            case OpenGate(name):
                self._edit(name, serving=True, gate_changed=self.now)
            case BeginDrain(name):
                self._edit(name, asked_to_drain=True, drain_started=self.now)
            case FinishDrain(name, overdue):
                if name in self.busy and not overdue:
                    self.harm.append(f"{name} was cut off with work in flight")
                self._edit(name, serving=False, cheap_to_delete=True, gate_changed=self.now)
            case DeletePod(name, uid):
                if name in self.pods and self.pods[name].uid == uid:
                    self._go(self.pods[name])
            case SetReplicas(_, name, version, _, replicas):
                workload = self.workloads.get(name)
                if workload is not None and workload.version == version:
                    self._resize(workload, replicas)
            case CreateWorkload(pool, replicas):
                self._create(pool, replicas)
            case DeleteWorkload(_, name, uid):
                if name in self.workloads and self.workloads[name].uid == uid:
                    del self.workloads[name]

    # The cluster.

    def settle(self, seconds: float = 1.0) -> None:
        """Some time passes: workloads make and remove pods, starting ones get ready, going ones go."""
        self.now += seconds
        for pod in list(self.pods.values()):
            if pod.deleting:
                del self.pods[pod.name]
                self.busy.discard(pod.name)
        self._collect_garbage()
        for workload in list(self.workloads.values()):
            self._replicate(workload)
        for pod in list(self.pods.values()):
            if not pod.containers_ready and not pod.deleting and self._image(pod) not in self.bad_images:
                self._edit(pod.name, containers_ready=True)
        self.check()

    def crash(self, name: str) -> None:
        """The engine in a pod dies; it starts again."""
        self._edit(name, containers_ready=False)
        self.busy.discard(name)

    def lose(self, name: str) -> None:
        """A pod is deleted behind the operator's back, as when its node goes."""
        self.pods.pop(name, None)
        self.busy.discard(name)

    def delete_workload(self, name: str) -> None:
        """Somebody deletes a workload behind the operator's back. Its pods go too, but not at once."""
        gone = self.workloads.pop(name, None)
        if gone is not None:
            self.gone[gone.uid] = self.now

    def _collect_garbage(self) -> None:
        for pod in list(self.pods.values()):
            since = self.gone.get(self.owners[pod.name])
            overdue = since is not None and self.now - since > GARBAGE_SECONDS / 3
            if since is not None and (overdue or self.dice.random() < GARBAGE_SHARE):
                self._edit(pod.name, deleting=True)

    def _owned(self, workload: Workload) -> list[Pod]:
        return [pod for pod in self.pods.values() if self.owners[pod.name] == workload.uid]

    def _create(self, pool: str, replicas: int) -> None:
        engine = next(engine for engine in self.engines if engine.pool.name == pool)
        name = engine.workload["metadata"]["name"]
        if name in self.workloads:
            return
        self.serial += 1
        template = engine.template_hash
        self._templates()[template] = engine
        self.workloads[name] = Workload(
            KIND, name, f"w{self.serial}", "1", pool, template, replicas, created=self.now + 0.1, deleting=False,
            late=False, trouble=None,
        )  # fmt: skip

    def _templates(self) -> dict[str, EngineChildren]:
        return self.__dict__.setdefault("templates", {})

    def _resize(self, workload: Workload, replicas: int) -> None:
        self.serial += 1
        self.workloads[workload.name] = replace(workload, replicas=replicas, version=f"v{self.serial}")

    def _replicate(self, workload: Workload) -> None:
        """What a ReplicaSet does."""
        mine = [pod for pod in self._owned(workload) if not pod.deleting]
        for _ in range(workload.replicas - len(mine)):
            self._make(workload)
        if len(mine) > workload.replicas:
            # Unready ones first; the deletion cost decides among those, where the server knows it.
            self.dice.shuffle(mine)
            # It sees late what was changed just now.
            late = {pod.name for pod in mine if self.now - (pod.gate_changed or -math.inf) < SEEN_LATE_SECONDS}
            mine.sort(key=lambda pod: pod.ready or pod.name in late)
            for pod in mine[: len(mine) - workload.replicas]:
                if pod.ready:
                    self.harm.append(f"the workload removed {pod.name}, which served")
                self._go(pod)

    def _make(self, workload: Workload) -> None:
        self.serial += 1
        named = self._templates()[workload.template].pod_template["metadata"]["labels"]
        role = named.get(labels.ROLE)
        name = f"{workload.name}-{self.serial}"
        self.owners[name] = workload.uid
        self.pods[name] = Pod(
            namespace="default", name=name, uid=f"p{self.serial}", deployment="small", component="engine",
            pool=workload.pool, template=workload.template, revision=named[labels.REVISION],
            role=Role(role) if role else None, asked_to_drain=False, drain_started=None, serving=None,
            containers_ready=False, ready=False, deleting=False, finished=False,
            created=max(self.now, workload.created), ip="10.0.0.1", admin_port=8080,
            cheap_to_delete=False, trouble=None,
        )  # fmt: skip

    def _image(self, pod: Pod) -> str:
        image: str = self._templates()[pod.template].pod_template["spec"]["containers"][0]["image"]
        return image

    def _go(self, pod: Pod) -> None:
        if pod.ready:
            self.harm.append(f"{pod.name} was removed while it served")
        self._edit(pod.name, deleting=True)

    def _edit(self, name: str, **changes: object) -> None:
        pod = self.pods.get(name)
        if pod is None:
            return
        pod = replace(pod, **changes)  # type: ignore[arg-type]
        self.pods[name] = replace(pod, ready=pod.containers_ready and pod.serving is True and not pod.deleting)

    # What there is.

    def check(self) -> None:
        """Record harm that shows in the state itself."""
        budget = self.md.spec.scaling.gpu_budget
        held = sum(self._templates()[pod.template].pool.accelerators for pod in self.pods.values())
        if budget is not None and held > max(budget, self.__dict__.get("excused", 0)):
            self.harm.append(f"{held} accelerators are held, the budget is {budget}")

    def excuse(self) -> None:
        """The budget was just lowered: what is held now may go down in its own time."""
        self.__dict__["excused"] = len(self.pods)

    def roles(self) -> dict[str, int]:
        """Ready engines by role."""
        found: dict[str, int] = {}
        for pod in self.pods.values():
            if pod.ready and not pod.asked_to_drain and pod.next_role is None:
                found[str(pod.role)] = found.get(str(pod.role), 0) + 1
        return found

    def serving(self) -> int:
        """Engines that take new work."""
        return sum(self.roles().values())

    def run(self, passes: int = 60) -> None:
        """Let operator and cluster work until nothing changes any more."""
        quiet = 0
        for _ in range(passes):
            acted = self.operate()
            self.settle()
            waiting = any(self.owners[name] in self.gone for name in self.pods)
            quiet = 0 if acted or waiting else quiet + 1
            if quiet >= 3:
                return
        raise AssertionError(f"no end after {passes} passes; the last one wanted {acted}")
