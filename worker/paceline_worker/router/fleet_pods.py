"""From a pod, as the Kubernetes API describes it, to the engine that the router sees. Pure; the pod watch calls it.

Only the fields that matter are decoded: a pod is some ten kilobytes of JSON, and most of it is of no use here.
"""

from __future__ import annotations

from typing import Final

import msgspec

from paceline.api import labels, wire

ENGINE_CONTAINER: Final = "engine"
EVENTS_PORT: Final = "kv-events"
"""Of the first data-parallel rank; the others' have its number behind the name."""
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
"""On pods since Kubernetes 1.33, where the API server copies it from the node."""
FINISHED: Final = frozenset({"Failed", "Succeeded"})
ROLES: Final = {role.value: role for role in wire.Role}


class _Part(msgspec.Struct, frozen=True, rename="camel"):
    """Base of the parts of a pod that are read. Fields that are not named here are passed over."""


class Metadata(_Part, frozen=True):
    """Who the pod is, and what was written on it."""

    name: str
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    deletion_timestamp: str | None = None


class Port(_Part, frozen=True):
    """A port of a container."""

    container_port: int
    name: str = ""


class Container(_Part, frozen=True):
    """A container of the pod."""

    name: str
    ports: tuple[Port, ...] = ()


class PodSpec(_Part, frozen=True):
    """What the pod was asked to be."""

    containers: tuple[Container, ...] = ()
    node_name: str = ""


class PodCondition(_Part, frozen=True):
    """One aspect of the pod's state."""

    type: str
    status: str


class ContainerStatus(_Part, frozen=True):
    """State of a container."""

    name: str
    restart_count: int = 0


class PodStatus(_Part, frozen=True):
    """What the kubelet says of the pod."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    conditions: tuple[PodCondition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(_Part, frozen=True):
    """The part of a pod that says where its engine is and whether it takes work."""

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


def endpoint(pod: Pod) -> wire.EngineEndpoint | None:
    """The engine in ``pod``; None while it has no address, no role or no API port, and after its end."""
    name = pod.metadata.name
    role = ROLES.get(pod.metadata.labels.get(labels.ROLE, ""))
    ports = _ports(pod)
    host, api = pod.status.pod_ip, ports.get("api")
    if role is None or not host or api is None or pod.status.phase in FINISHED:
        return None
    events, replay = ports.get(EVENTS_PORT), ports.get("kv-replay")
    return wire.EngineEndpoint(
        name=name,
        host=host,
        port=api,
        role=role,
        state=_state(pod),
        start_id=_start_id(pod),
        revision=pod.metadata.labels.get(labels.REVISION, ""),
        kv_events=None if events is None else _zmq(host, events),
        kv_replay=None if replay is None else _zmq(host, replay),
        data_parallel=1 + sum(name.startswith(f"{EVENTS_PORT}-") for name in ports),
        tls=pod.metadata.annotations.get(labels.TLS) == "true",
        zone=pod.metadata.labels.get(ZONE_LABEL, ""),
        node=pod.spec.node_name,
        pool=pod.metadata.labels.get(labels.POOL, ""),
    )


def _state(pod: Pod) -> wire.EngineState:
    """A pod that was asked to go, to drain, or to finish before it changes its role gets no new work however ready it
    still is.
    """
    notes = pod.metadata.annotations
    if pod.metadata.deletion_timestamp is not None or notes.get(labels.DRAIN) == "true" or labels.NEXT_ROLE in notes:
        return wire.EngineState.DRAINING
    ready = any(condition.type == "Ready" and condition.status == "True" for condition in pod.status.conditions)
    return wire.EngineState.READY if ready else wire.EngineState.STARTING


def _start_id(pod: Pod) -> str:
    """Another one with every start of the container: its cache is empty again."""
    restarts = next((s.restart_count for s in pod.status.container_statuses if s.name == ENGINE_CONTAINER), 0)
    return f"{pod.metadata.uid}-{restarts}"


def _ports(pod: Pod) -> dict[str, int]:
    container = next((one for one in pod.spec.containers if one.name == ENGINE_CONTAINER), None)
    return {} if container is None else {port.name: port.container_port for port in container.ports}


def _zmq(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
