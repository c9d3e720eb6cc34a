"""Carries out what the lifecycle policy asked for, one write at a time, and tells the user about it. Called by the
reconcile pass.
"""

from __future__ import annotations

from typing import Final

from paceline.api import labels
from paceline.clock import Clock, timestamp
from paceline.controller.api import Json
from paceline.controller.events import Events
from paceline.controller.kinds import BY_ID, POD, Kind
from paceline.controller.state import ClusterState
from paceline.controller.writer import Writer
from paceline.policy.lifecycle.actions import (
    Action,
    BeginDrain,
    BeginRoleChange,
    DeletePod,
    DeleteWorkload,
    FinishDrain,
    OpenGate,
    SetReplicas,
    SetRole,
)
from paceline.policy.lifecycle.observed import DELETION_COST

FIRST_TO_GO: Final = "-1000"
"""Deletion cost of a drained pod; others have 0."""


class Executor:
    """Turns actions into writes. Raises what the API server answers."""

    def __init__(self, state: ClusterState, writer: Writer, events: Events, clock: Clock) -> None:
        self._state = state
        self._writer = writer
        self._events = events
        self._clock = clock

    async def carry_out(self, action: Action, about: Json) -> None:
        """Do ``action`` for the ModelDeployment ``about``. CreateWorkload is the reconcile pass's own matter."""
        namespace = about["metadata"]["namespace"]
        match action:
            case BeginRoleChange(pod, before, role):
                notes = {labels.NEXT_ROLE: role.value, labels.ROLE_CHANGE_STARTED: timestamp(self._clock)}
                await self._pod(namespace, pod, {"annotations": notes})
                message = (
                    f"{pod} takes no new work: it is to serve {role} when it has finished what it has for {before}."
                )
                await self._events.write(about, "RoleChangeStarted", message)
            case SetRole(pod, before, role):
                arrived = {labels.NEXT_ROLE: None, labels.ROLE_CHANGE_STARTED: None}
                await self._pod(namespace, pod, {"labels": {labels.ROLE: role.value}, "annotations": arrived})
                if before not in (None, role):
                    await self._events.write(about, "RoleChanged", f"{pod} serves {role} now, {before} before.")
            case OpenGate(pod):
                await self._gate(namespace, pod, is_open=True)
            case BeginDrain(pod, why):
                notes = {labels.DRAIN: "true", labels.DRAIN_STARTED: timestamp(self._clock)}
                await self._pod(namespace, pod, {"annotations": notes})
                await self._events.write(about, "DrainStarted", f"{pod} takes no new work: {why}.")
            case FinishDrain(pod, overdue):
                await self._pod(namespace, pod, {"annotations": {DELETION_COST: FIRST_TO_GO}})
                await self._gate(namespace, pod, is_open=False)
                if overdue:
                    message = f"{pod} still had work in flight at the end of its drain time; it goes now."
                    await self._events.write(about, "DrainDeadlineExceeded", message, warning=True)
            case DeletePod(pod, uid):
                await self._writer.delete(POD, namespace, pod, uid)
                await self._events.write(about, "EngineReplaced", f"{pod} has drained; its workload makes another one.")
            case SetReplicas():
                await self._resize(namespace, action, about)
            case DeleteWorkload(kind, workload, uid):
                await self._writer.delete(BY_ID[kind], namespace, workload, uid)
                await self._events.write(about, "WorkloadRemoved", f"{workload} has no engines any more.")

    async def _resize(self, namespace: str, action: SetReplicas, about: Json) -> None:
        kind: Kind = BY_ID[action.kind]
        metadata = {
            "resourceVersion": action.version,
            "annotations": {labels.REPLICAS: str(action.replicas)},
        }
        body = {"metadata": metadata, "spec": {"replicas": action.replicas}}
        answer = await self._writer.merge(kind, namespace, action.workload, body)
        self._state.caches[kind.id].put(answer)
        message = f"{action.workload} goes from {action.before} to {action.replicas} engines."
        await self._events.write(about, "Scaled", message)

    async def _pod(self, namespace: str, pod: str, metadata: Json) -> None:
        self._state.pods.put(await self._writer.merge(POD, namespace, pod, {"metadata": metadata}))

    async def _gate(self, namespace: str, pod: str, *, is_open: bool) -> None:
        condition = {
            "type": labels.SERVING_GATE,
            "status": "True" if is_open else "False",
            "reason": "Serving" if is_open else "Drained",
            "lastTransitionTime": timestamp(self._clock),
        }
        self._state.pods.put(await self._writer.pod_condition(namespace, pod, condition))
