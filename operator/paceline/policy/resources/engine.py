"""The engines of one hardware pool: a ConfigMap, and a Deployment or, where an engine spans nodes, a LeaderWorkerSet.

Both carry the same pod template, which the local runtime starts as a process. A workload is named after its template
and never gets another one: while engines are replaced, the old and the new workload stand side by side, and the
controller moves replicas from one to the other. Replicas are left out unless they are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from paceline.api import labels, wire
from paceline.api.v1alpha1 import ModelDeployment, SourceType
from paceline.policy.resources import tls
from paceline.policy.resources.common import (
    WORKLOAD_NAME_LIMIT,
    Images,
    Manifest,
    child_labels,
    child_metadata,
    child_name,
    config_map,
    container_security,
    http_probe,
    pod_identity,
    pod_security,
    selector_labels,
    short_hash,
)
from paceline.policy.resources.config import MODEL_VOLUME_PATH, engine_config, event_ranks, revision
from paceline.policy.resources.patch import merge_pod_template
from paceline.policy.resources.pools import HardwarePool

CONTAINER: Final = "engine"
COMMAND: Final = ("python", "-m", "paceline_worker.engine")
CONFIG_KEY: Final = "engine.json"
CONFIG_ENV: Final = "PACELINE_ENGINE_CONFIG"
HOME_PATH: Final = "/home/paceline"
"""Home folder that the image names: downloads and compile caches go there, on a volume of their own."""
STOP_MARGIN_SECONDS: Final = 30
"""Time to stop vLLM after the drain, before the kubelet kills."""
SHARED_MEMORY_LIMIT: Final = "16Gi"
"""Bound on /dev/shm, through which the ranks of one pod talk."""
OLD_REPLICA_SETS: Final = 3
LEADER_WORKER_SET: Final = "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet"
"""Kind of the workload whose engines span nodes; its controller is a project of its own."""


@dataclass(frozen=True, slots=True)
class EngineChildren:
    """Manifests of one hardware pool."""

    pool: HardwarePool
    template_hash: str
    """Of the pod template; part of the workload's name and selector."""
    config_map: Manifest
    workload: Manifest

    @property
    def pod_template(self) -> Manifest:
        """Template of the pod that takes an engine's requests: the only one, or the leader's."""
        spec = self.workload["spec"]
        template: Manifest = spec["template"] if "template" in spec else spec["leaderWorkerTemplate"]["leaderTemplate"]
        return template


def engine_children(
    md: ModelDeployment, pool: HardwarePool, *, images: Images, replicas: int | None = None
) -> EngineChildren:
    """Manifests of one pool. Raises SpecError where ``engine.podTemplate`` doesn't fit."""
    config = engine_config(md, pool)
    configuration = config_map(
        md, f"{pool.name}-config", CONFIG_KEY, wire.encode(config), labels.COMPONENT_ENGINE, pool.name
    )
    templates = [_pod_template(md, pool, config, configuration["metadata"]["name"], images, follower=False)]
    if pool.nodes > 1:
        templates.append(_pod_template(md, pool, config, configuration["metadata"]["name"], images, follower=True))
    template_hash = short_hash(templates)
    for template in templates:
        template["metadata"]["labels"][labels.TEMPLATE] = template_hash
    build = _deployment if pool.nodes == 1 else _leader_worker_set
    workload = build(md, pool, template_hash, *templates)
    if replicas is not None:
        workload["spec"]["replicas"] = replicas
    return EngineChildren(pool=pool, template_hash=template_hash, config_map=configuration, workload=workload)


def _workload_metadata(md: ModelDeployment, pool: HardwarePool, template_hash: str) -> Manifest:
    name = child_name(md, pool.name, template_hash, limit=WORKLOAD_NAME_LIMIT)
    metadata = child_metadata(md, name, labels.COMPONENT_ENGINE, pool.name)
    metadata["labels"][labels.TEMPLATE] = template_hash
    return metadata


def _deployment(md: ModelDeployment, pool: HardwarePool, template_hash: str, template: Manifest) -> Manifest:
    selector = {**selector_labels(md, labels.COMPONENT_ENGINE, pool.name), labels.TEMPLATE: template_hash}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _workload_metadata(md, pool, template_hash),
        "spec": {
            "selector": {"matchLabels": selector},
            "template": template,
            # Its template never changes; were it edited by hand, no engine more than planned may start.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "progressDeadlineSeconds": md.spec.engine.start_deadline_seconds,
            "revisionHistoryLimit": OLD_REPLICA_SETS,
        },
    }


def _leader_worker_set(
    md: ModelDeployment, pool: HardwarePool, template_hash: str, leader: Manifest, follower: Manifest
) -> Manifest:
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": _workload_metadata(md, pool, template_hash),
        "spec": {
            "leaderWorkerTemplate": {
                "size": pool.nodes,
                # One rank that restarts leaves the others with a broken communicator.
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": leader,
                "workerTemplate": follower,
            },
            "rolloutStrategy": {
                "type": "RollingUpdate",
                "rollingUpdateConfiguration": {"maxSurge": 0, "maxUnavailable": 1},
            },
        },
    }


def _pod_template(
    md: ModelDeployment,
    pool: HardwarePool,
    config: wire.EngineConfig,
    config_name: str,
    images: Images,
    *,
    follower: bool,
) -> Manifest:
    component = labels.COMPONENT_FOLLOWER if follower else labels.COMPONENT_ENGINE
    pod_labels = {**child_labels(md, component, pool.name), labels.REVISION: revision(md, images)}
    spec: Manifest = {
        "containers": [_container(md, pool, config, config_name, images, follower=follower)],
        "volumes": _volumes(md),
        "securityContext": pod_security(),
        "terminationGracePeriodSeconds": md.spec.engine.drain_seconds + STOP_MARGIN_SECONDS,
        # Engines never talk to the API server.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
    }
    if not follower:
        spec["readinessGates"] = [{"conditionType": labels.SERVING_GATE}]
        # Where roles change, the label comes when the engine is ready: in the template it would restart every engine.
        if pool.fixed_role is not None:
            pod_labels[labels.ROLE] = pool.fixed_role.value
    if nodes := _node_selector(pool):
        spec["nodeSelector"] = nodes
    if pool.tolerations:
        spec["tolerations"] = [
            entry.model_dump(mode="json", by_alias=True, exclude_none=True) for entry in pool.tolerations
        ]
    built: Manifest = {"metadata": {"labels": pod_labels}, "spec": spec}
    if md.spec.engine.tls is not None:
        built["metadata"]["annotations"] = {labels.TLS: "true"}
    merged = merge_pod_template(
        built, md.spec.engine.pod_template, path="spec.engine.podTemplate", source=md.metadata.name
    )
    # A workload whose pods don't carry its selector is refused by the API server, whatever the user wrote.
    merged["metadata"].setdefault("labels", {}).update(selector_labels(md, component, pool.name))
    return merged


def _container(
    md: ModelDeployment,
    pool: HardwarePool,
    config: wire.EngineConfig,
    config_name: str,
    images: Images,
    *,
    follower: bool,
) -> Manifest:
    container: Manifest = {
        "name": CONTAINER,
        "image": md.spec.engine.image or images.engine,
        "command": list(COMMAND),
        "env": _environment(md, config_name),
        "ports": [
            {"name": "api", "containerPort": config.ports.api},
            {"name": "admin", "containerPort": config.ports.admin},
            {"name": "kv-side-channel", "containerPort": config.ports.kv_side_channel},
            *_rank_ports("kv-events", config.ports.kv_events, event_ranks(md, pool)),
            *_rank_ports("kv-replay", config.ports.kv_replay, event_ranks(md, pool)),
        ],
        "startupProbe": http_probe("/healthz", period_seconds=2, failures=150),
        "livenessProbe": http_probe("/healthz", period_seconds=10, failures=6),
        "volumeMounts": _mounts(md, config),
        "securityContext": container_security(),
    }
    if not follower:
        # One failure is enough: the worker says "not ready" only when vLLM died or drains.
        container["readinessProbe"] = http_probe("/readyz", period_seconds=2, failures=1)
    if pool.accelerator.count:
        amount = {pool.accelerator.resource_name: str(pool.accelerator.count)}
        container["resources"] = {"requests": amount, "limits": dict(amount)}
    return container


def _rank_ports(name: str, first: int, ranks: int) -> list[Manifest]:
    """A port for each data-parallel rank: by their number routers know how many caches an engine has."""
    return [{"name": f"{name}-{rank}" if rank else name, "containerPort": first + rank} for rank in range(ranks)]


def _environment(md: ModelDeployment, config_name: str) -> list[Manifest]:
    hub = md.spec.model.source.hugging_face
    variables: list[Manifest] = [
        {"name": CONFIG_ENV, "valueFrom": {"configMapKeyRef": {"name": config_name, "key": CONFIG_KEY}}},
        *pod_identity(),
    ]
    if hub is not None and hub.token_secret is not None:
        reference = hub.token_secret.model_dump(mode="json", by_alias=True)
        variables.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    own = [entry.model_dump(mode="json", by_alias=True, exclude_none=True) for entry in md.spec.engine.env]
    taken = {entry["name"] for entry in own}
    return [entry for entry in variables if entry["name"] not in taken] + own


def _volumes(md: ModelDeployment) -> list[Manifest]:
    source, disk = md.spec.model.source, md.spec.engine.kv_cache.disk_tier
    volumes: list[Manifest] = [
        {"name": "home", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": SHARED_MEMORY_LIMIT}},
    ]
    if source.type is SourceType.PERSISTENT_VOLUME_CLAIM and source.persistent_volume_claim is not None:
        claim = {"claimName": source.persistent_volume_claim.claim_name, "readOnly": True}
        volumes.append({"name": "model", "persistentVolumeClaim": claim})
    if disk is not None:
        volumes.append({"name": "kv-disk", "emptyDir": {"sizeLimit": f"{disk.size_gib}Gi"}})
    return volumes + tls.engine_volumes(md)


def _mounts(md: ModelDeployment, config: wire.EngineConfig) -> list[Manifest]:
    mounts: list[Manifest] = [
        {"name": "home", "mountPath": HOME_PATH},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount of the pod's own, not this process's folder
        {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108
    ]
    if md.spec.model.source.type is SourceType.PERSISTENT_VOLUME_CLAIM:
        mounts.append({"name": "model", "mountPath": MODEL_VOLUME_PATH, "readOnly": True})
    if md.spec.engine.kv_cache.disk_tier is not None:
        mounts.append({"name": "kv-disk", "mountPath": config.kv_cache.disk_path})
    return mounts + tls.mounts(tls.engine_volumes(md))


def _node_selector(pool: HardwarePool) -> dict[str, str]:
    selector = {label.key: label.value for label in pool.node_selector}
    if pool.accelerator.product is not None:
        selector[pool.accelerator.product_label] = pool.accelerator.product
    return selector
