"""Deployments and engines as they look at one moment, for tests of the commands that read a cluster."""

from __future__ import annotations

from typing import Any

from paceline.api import labels
from tests.cli.fake_cluster import NAMESPACE, FakeCluster, Json, at

NAME = "chat"
GPUS_PER_ENGINE = 2


def condition(kind: str, status: str, reason: str, message: str = "", *, ago: int = 600) -> Json:
    return {
        "type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at(ago),
        "observedGeneration": 1,
    }  # fmt: skip


def spec(*, mode: str = "Auto", least: int = 1, most: int = 4, product: tuple[str, str] = ("gpu", "gpu")) -> Json:
    def pool(name: str) -> Json:
        accelerator = {"count": GPUS_PER_ENGINE, "product": name}
        return {"minReplicas": least, "maxReplicas": most, "accelerator": accelerator}

    return {
        "model": {"name": "Qwen/Qwen3-32B"},
        "slo": {"ttftMilliseconds": 2000, "itlMilliseconds": 50, "targetPercent": 95},
        "engine": {"drainSeconds": 120, "startDeadlineSeconds": 600, "parallelism": {"tensor": GPUS_PER_ENGINE}},
        "pools": {"prefill": pool(product[0]), "decode": pool(product[1])},
        "scaling": {"mode": mode, "gpuBudget": 16, "intervalSeconds": 5},
    }


def ready_status(**changes: Any) -> Json:
    kinds = ("Accepted", "Ready", "Available", "PrefillReady", "DecodeReady", "RouterReady", "MetricsAvailable")
    role = {"starting": 0, "draining": 0}
    return {
        "observedGeneration": 1,
        "conditions": [
            *(condition(kind, "True", "AsDesired") for kind in kinds),
            condition("Progressing", "False", "AsDesired"),
            condition("ScalingLimited", "False", "WithinLimits"),
        ],
        "endpoint": "http://chat-router.prod.svc:8000",
        "revision": "abc123",
        "engines": "3/3",
        "ratio": "1:2",
        "roles": {"prefill": {"desired": 1, "ready": 1, **role}, "decode": {"desired": 2, "ready": 2, **role}},
        "slo": {"attainmentPercent": 97, "windowSeconds": 600, "summary": "97% of 95%"},
        "scaling": {
            "recommended": {"prefill": 1, "decode": 2, "both": 0},
            "history": [
                {
                    "time": at(180),
                    "before": {"prefill": 2, "decode": 1, "both": 0},
                    "after": {"prefill": 1, "decode": 2, "both": 0},
                    "limit": "ITL",
                    "reason": "Change 1 engine to decode. What bound the number of engines: the ITL objective.",
                }
            ],
        },
        **changes,
    }


def not_ready(reason: str, message: str, **changes: Any) -> Json:
    """A status whose decode engines are not all there, for one reason."""
    status = ready_status(**changes)
    bad = {"Ready", "DecodeReady"}
    status["conditions"] = [
        condition(one["type"], "False", reason, message, ago=240) if one["type"] in bad else one
        for one in status["conditions"]
    ]
    status["roles"]["decode"] = {"desired": 2, "ready": 1, "starting": 1, "draining": 0}
    return status


def engine(
    cluster: FakeCluster,
    name: str,
    role: str | None,
    *,
    ready: bool = True,
    node: str | None = "gpu-a",
    component: str = labels.COMPONENT_ENGINE,
    age: int = 3600,
    notes: Json | None = None,
    containers: Json | None = None,
    conditions: tuple[Json, ...] = (),
    template: str = "one",
    **metadata: Any,
) -> Json:
    """A pod of ``chat``. In one that is not ready the engine still loads, unless ``containers`` says something else."""
    named = {labels.DEPLOYMENT: NAME, labels.COMPONENT: component}
    if component == labels.COMPONENT_ENGINE:
        named |= {labels.POOL: "flexible", labels.TEMPLATE: template, labels.REVISION: "abc123"}
        named |= {labels.ROLE: role} if role else {}
    flags = [
        {"type": kind, "status": "True" if ready else "False"}
        for kind in ("ContainersReady", "Ready", *((labels.SERVING_GATE,) if ready else ()))
    ]
    limits = {"cpu": "8", "nvidia.com/gpu": str(GPUS_PER_ENGINE)} if component == labels.COMPONENT_ENGINE else {}
    return cluster.pod(
        name,
        metadata={"labels": named, "annotations": notes or {}, "creationTimestamp": at(age), **metadata},
        spec={"containers": [{"name": "engine", "resources": {"limits": limits}}]}
        | ({"nodeName": node} if node else {}),
        status={
            "phase": "Running" if node else "Pending",
            "conditions": [*flags, *conditions],
            "containerStatuses": [containers or {"name": "engine", "state": {"running": {}}, "restartCount": 0}],
        },
    )


def ready_deployment(cluster: FakeCluster, *, mode: str = "Auto") -> None:
    """Three engines and a router, all in service."""
    cluster.deployment(NAME, spec=spec(mode=mode), status=ready_status())
    engine(cluster, "chat-a", "prefill")
    engine(cluster, "chat-b", "decode")
    engine(cluster, "chat-c", "decode", node="gpu-b")
    engine(cluster, "chat-router-x", None, component=labels.COMPONENT_ROUTER)


def lease(cluster: FakeCluster, *, ago: int) -> None:
    """The operator's Lease, renewed so many seconds ago."""
    cluster.put(
        "/apis/coordination.k8s.io/v1/namespaces/paceline-system/leases/paceline-operator",
        spec={"holderIdentity": "me", "renewTime": at(ago), "leaseDurationSeconds": 15},
    )


def event(cluster: FakeCluster, name: str, about: str, kind: str, reason: str, message: str, *, ago: int) -> None:
    cluster.put(
        f"/api/v1/namespaces/{NAMESPACE}/events/{name}",
        involvedObject={"kind": kind, "name": about}, reason=reason, message=message, lastTimestamp=at(ago), count=1,
        type="Normal" if kind == labels.KIND else "Warning",
    )  # fmt: skip
