"""Engines and their workloads as the API server describes them, reduced to what decisions need.

Read once when an object changes; the planner of actions and the status see these values only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from paceline.api import labels
from paceline.api.conditions import Reason
from paceline.api.wire import Role
from paceline.errors import HardwareError

Json = Mapping[str, Any]

DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
IMAGE_REASONS: Final = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
ENGINE_CONTAINER: Final = "engine"
LONGEST_TROUBLE: Final = 400
"""Characters of somebody else's message that a status repeats."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps an object from what it should be, in the words of the status."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a ModelDeployment: an engine, one of an engine's followers, or a router."""

    namespace: str
    name: str
    uid: str
    deployment: str
    """Value of the label that names the ModelDeployment."""
    component: str
    pool: str
    template: str
    """Hash of the template that it was made from; empty on pods of versions that had no such label."""
    revision: str
    role: Role | None
    asked_to_drain: bool
    drain_started: float | None
    """When the drain was ordered, in seconds since the epoch; None where nobody wrote it down."""
    serving: bool | None
    """What its readiness gate says; None before the first word."""
    containers_ready: bool
    ready: bool
    deleting: bool
    finished: bool
    """Failed or succeeded: it holds no accelerators and never runs again."""
    created: float
    ip: str
    admin_port: int
    cheap_to_delete: bool
    trouble: Trouble | None
    next_role: Role | None = None
    """The role that it takes once it has finished what it has."""
    change_started: float | None = None
    """Since when it has been to take that, in seconds since the epoch."""
    node: str = ""
    fault_at: float | None = None
    """When a fault of its hardware ended its engine last, in seconds since the epoch; None where none did."""
    gate_changed: float | None = None
    """When its readiness gate said something else last, in seconds since the epoch."""

    @property
    def aim(self) -> Role | None:
        """The role that it has, or is on its way to."""
        return self.next_role or self.role

    @property
    def drained(self) -> bool:
        """Whether its drain is over: it may go."""
        return self.asked_to_drain and self.serving is False and self.cheap_to_delete and not self.ready


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment or LeaderWorkerSet of engines."""

    kind: str
    name: str
    uid: str
    version: str
    """Resource version: what was decided on this one must not be done to another."""
    pool: str
    template: str
    replicas: int
    created: float
    """In seconds since the epoch."""
    deleting: bool
    late: bool
    """Whether its pods did not get ready within its own deadline, or are not even made."""
    trouble: Trouble | None


def read_pod(raw: Json) -> Pod:
    """Reduce a Pod of the API server. Values that make no sense count as not written."""
    metadata, spec, status = raw["metadata"], raw.get("spec") or {}, raw.get("status") or {}
    named = metadata.get("labels") or {}
    notes = metadata.get("annotations") or {}
    conditions = {entry["type"]: entry for entry in status.get("conditions") or ()}
    gate = conditions.get(labels.SERVING_GATE, {})
    serving = gate.get("status")
    return Pod(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        deployment=named.get(labels.DEPLOYMENT, ""),
        component=named.get(labels.COMPONENT, ""),
        pool=named.get(labels.POOL, ""),
        template=named.get(labels.TEMPLATE, ""),
        revision=named.get(labels.REVISION, ""),
        role=_role(named.get(labels.ROLE)),
        asked_to_drain=notes.get(labels.DRAIN) == "true",
        drain_started=seconds_of(notes.get(labels.DRAIN_STARTED)),
        serving=None if serving is None else serving == "True",
        containers_ready=conditions.get("ContainersReady", {}).get("status") == "True",
        ready=conditions.get("Ready", {}).get("status") == "True",
        deleting=metadata.get("deletionTimestamp") is not None,
        finished=status.get("phase") in {"Failed", "Succeeded"},
        created=seconds_of(metadata.get("creationTimestamp")) or 0.0,
        ip=status.get("podIP") or "",
        admin_port=_admin_port(spec),
        cheap_to_delete=_is_negative(notes.get(DELETION_COST)),
        trouble=_pod_trouble(conditions, status),
        next_role=_role(notes.get(labels.NEXT_ROLE)),
        change_started=seconds_of(notes.get(labels.ROLE_CHANGE_STARTED)),
        node=spec.get("nodeName") or "",
        fault_at=_fault_at(status),
        gate_changed=seconds_of(gate.get("lastTransitionTime")),
    )


def read_workload(raw: Json) -> Workload:
    """Reduce a Deployment or LeaderWorkerSet of the API server."""
    metadata, spec = raw["metadata"], raw.get("spec") or {}
    named = metadata.get("labels") or {}
    return Workload(
        kind=f"{raw['apiVersion']}/{raw['kind']}",
        name=metadata["name"],
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        pool=named.get(labels.POOL, ""),
        template=named.get(labels.TEMPLATE, ""),
        replicas=int(spec.get("replicas", 1)),
        created=seconds_of(metadata.get("creationTimestamp")) or 0.0,
        deleting=metadata.get("deletionTimestamp") is not None,
        late=_is_late(raw.get("status") or {}),
        trouble=workload_trouble(raw.get("status") or {}),
    )


def workload_trouble(status: Json) -> Trouble | None:
    """Why a Deployment can't make its pods, where it says so. A quota is the usual reason."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            message = str(condition.get("message", ""))
            reason = Reason.QUOTA_EXCEEDED if "exceeded quota" in message else Reason.PODS_REFUSED
            return Trouble(reason, message[:LONGEST_TROUBLE])
    return None


def _is_late(status: Json) -> bool:
    conditions = status.get("conditions") or ()
    return any(entry.get("reason") == "ProgressDeadlineExceeded" for entry in conditions)


def _pod_trouble(conditions: Mapping[str, Json], status: Json) -> Trouble | None:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        return Trouble(Reason.UNSCHEDULABLE, str(scheduled.get("message", ""))[:LONGEST_TROUBLE])
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason"), str(waiting.get("message", ""))[:LONGEST_TROUBLE]
        fault = _hardware_fault(container)
        if fault is not None:
            return Trouble(Reason.GPU_ERROR, fault)
        if reason in IMAGE_REASONS:
            return Trouble(Reason.IMAGE_PULL_FAILED, message or f"image {container.get('image', '')}")
        if reason == "CrashLoopBackOff":
            return Trouble(Reason.CRASHING, message or f"container {container.get('name', '')} ends again and again")
        if reason in {"CreateContainerConfigError", "CreateContainerError"}:
            return Trouble(Reason.PODS_REFUSED, message)
    return None


def _faults(container: Json) -> Iterator[Json]:
    """Ends of an engine by a fault of its hardware, the newest first."""
    if container.get("name") == ENGINE_CONTAINER:
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            ended = state.get("terminated") or {}
            if ended.get("exitCode") == HardwareError.exit_code:
                yield ended


def _hardware_fault(container: Json) -> str | None:
    """What an engine said that ended by a fault of its hardware, until it is ready again."""
    if container.get("ready"):
        return None
    ended = next(_faults(container), None)
    return None if ended is None else str(ended.get("message") or "an accelerator failed")[:LONGEST_TROUBLE]


def _fault_at(status: Json) -> float | None:
    ends = (ended for container in status.get("containerStatuses") or () for ended in _faults(container))
    return next((at for ended in ends if (at := seconds_of(ended.get("finishedAt"))) is not None), None)


def _role(text: str | None) -> Role | None:
    return Role(text) if text in set(Role) else None


def seconds_of(text: str | None) -> float | None:
    """Seconds since the epoch of an RFC 3339 time; None where there is none."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def _is_negative(text: str | None) -> bool:
    try:
        return text is not None and int(text) < 0
    except ValueError:
        return False


def _admin_port(spec: Json) -> int:
    for container in spec.get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("name") == "admin":
                return int(port["containerPort"])
    return 0
