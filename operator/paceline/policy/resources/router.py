"""The routers of a ModelDeployment: a ConfigMap, a Deployment and the Service that clients talk to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from paceline.api import labels, wire
from paceline.api.v1alpha1 import ModelDeployment, SourceType
from paceline.policy.resources import tls
from paceline.policy.resources.access import router_account_name
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
)
from paceline.policy.resources.config import MODEL_VOLUME_PATH, TOKENIZER_PATH, emulated, router_config
from paceline.policy.resources.patch import merge_pod_template
from paceline.policy.resources.tenants import keys_arguments, keys_mounts, keys_volumes

CONTAINER: Final = "router"
COMMAND: Final = ("python", "-m", "paceline_worker.router")
CONFIG_KEY: Final = "router.json"
CONFIG_ENV: Final = "PACELINE_ROUTER_CONFIG"
API_PORT: Final = 8000
ADMIN_PORT: Final = 8080
SERVICE_PORT: Final = 80
SECURE_SERVICE_PORT: Final = 443
GRACE_SECONDS: Final = 60
"""The router finishes what is in flight within 30 s; the rest is margin."""
UNPUBLISH_SECONDS: Final = 5
"""Time for every node to forget a router's address before it stops accepting."""
RESOURCES: Final = {"cpu": "1", "memory": "512Mi"}
"""Requests of one router: it is one process on one core."""
OLD_REPLICA_SETS: Final = 3
DOWNLOAD_COMMAND: Final = ("python", "-m", "paceline_worker.router.tokens.download")
TOKENIZER_LIMIT: Final = "512Mi"
"""Of a tokenizer's files; the largest vocabularies take some 30 MB."""
HUB_VARIABLES: Final = frozenset({"HF_ENDPOINT", "HF_TOKEN", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE"})
"""Of the engine's environment: how the hub is reached."""


@dataclass(frozen=True, slots=True)
class RouterChildren:
    """Manifests of the routers."""

    config_map: Manifest
    deployment: Manifest
    service: Manifest

    @property
    def pod_template(self) -> Manifest:
        """Template of a router's pod."""
        template: Manifest = self.deployment["spec"]["template"]
        return template


def router_children(md: ModelDeployment, *, images: Images) -> RouterChildren:
    """Manifests of the routers. Raises SpecError where ``routing.podTemplate`` doesn't fit, or a setting can't be
    served.
    """
    document = wire.encode(router_config(md))
    configuration = config_map(md, "router-config", CONFIG_KEY, document, labels.COMPONENT_ROUTER, None)
    return RouterChildren(
        config_map=configuration,
        deployment=_deployment(md, _pod_template(md, configuration["metadata"]["name"], images)),
        service=_service(md),
    )


def engine_selector(md: ModelDeployment) -> str:
    """Label selector of the pods that take requests, as the API server reads it in a query."""
    return ",".join(f"{key}={value}" for key, value in selector_labels(md, labels.COMPONENT_ENGINE).items())


def _deployment(md: ModelDeployment, template: Manifest) -> Manifest:
    name = child_name(md, "router", limit=WORKLOAD_NAME_LIMIT)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": child_metadata(md, name, labels.COMPONENT_ROUTER),
        "spec": {
            "replicas": md.spec.routing.replicas,
            "selector": {"matchLabels": selector_labels(md, labels.COMPONENT_ROUTER)},
            "template": template,
            # The front door never has fewer than it should: a new router first, then an old one goes.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "revisionHistoryLimit": OLD_REPLICA_SETS,
        },
    }


def address(md: ModelDeployment) -> tuple[str, int]:
    """Scheme and port of the Service."""
    return ("http", SERVICE_PORT) if md.spec.routing.tls is None else ("https", SECURE_SERVICE_PORT)


def _service(md: ModelDeployment) -> Manifest:
    scheme, port = address(md)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(md, child_name(md, "router"), labels.COMPONENT_ROUTER),
        "spec": {
            "type": md.spec.routing.service_type.value,
            "selector": selector_labels(md, labels.COMPONENT_ROUTER),
            "ports": [{"name": scheme, "port": port, "targetPort": "api", "protocol": "TCP"}],
        },
    }


def _pod_template(md: ModelDeployment, config_name: str, images: Images) -> Manifest:
    selector = selector_labels(md, labels.COMPONENT_ROUTER)
    built: Manifest = {
        "metadata": {"labels": child_labels(md, labels.COMPONENT_ROUTER)},
        "spec": {
            "containers": [_container(md, config_name, images)],
            "volumes": [
                {"name": "tmp", "emptyDir": {}},
                *_tokenizer_volumes(md),
                *keys_volumes(md),
                *tls.router_volumes(md),
            ],
            "securityContext": pod_security(),
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "serviceAccountName": router_account_name(md),
            # A router reads the pods of its engines.
            "automountServiceAccountToken": True,
            "enableServiceLinks": False,
            "topologySpreadConstraints": [
                {
                    "topologyKey": "kubernetes.io/hostname",
                    "maxSkew": 1,
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": selector},
                }
            ],
        },
    }
    if _from_hub(md):
        built["spec"]["initContainers"] = [_download(md, images)]
    merged = merge_pod_template(
        built, md.spec.routing.pod_template, path="spec.routing.podTemplate", source=md.metadata.name
    )
    # A workload whose pods don't carry its selector is refused by the API server, whatever the user wrote.
    merged["metadata"].setdefault("labels", {}).update(selector)
    return merged


def _container(md: ModelDeployment, config_name: str, images: Images) -> Manifest:
    return {
        "name": CONTAINER,
        "image": md.spec.routing.image or images.router,
        "command": list(COMMAND),
        "args": [
            *("--host", "0.0.0.0"),  # noqa: S104 - a pod serves on its own address
            *("--port", str(API_PORT)),
            *("--admin-port", str(ADMIN_PORT)),
            *("--fleet-source", "kubernetes"),
            *("--fleet-selector", engine_selector(md)),
            *keys_arguments(md),
        ],
        "env": [
            {"name": CONFIG_ENV, "valueFrom": {"configMapKeyRef": {"name": config_name, "key": CONFIG_KEY}}},
            *pod_identity(),
        ],
        "ports": [
            {"name": "api", "containerPort": API_PORT},
            {"name": "admin", "containerPort": ADMIN_PORT},
        ],
        "startupProbe": http_probe("/healthz", period_seconds=1, failures=60),
        "readinessProbe": http_probe("/readyz", period_seconds=2, failures=2),
        "livenessProbe": http_probe("/healthz", period_seconds=10, failures=3),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(UNPUBLISH_SECONDS)]}}},
        "resources": {"requests": dict(RESOURCES)},
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a mount of the pod's own, not this process's folder
            *_tokenizer_mounts(md),
            *keys_mounts(md),
            *tls.mounts(tls.router_volumes(md)),
        ],
        "securityContext": container_security(),
    }


def _from_hub(md: ModelDeployment) -> bool:
    """Whether routers download the model's tokenizer: engines do the same with the weights."""
    return md.spec.model.source.type is SourceType.HUGGING_FACE and not emulated(md)


def _claim(md: ModelDeployment) -> str | None:
    """The volume claim with the model, where routers read its tokenizer from that."""
    claim = md.spec.model.source.persistent_volume_claim
    if md.spec.model.source.type is not SourceType.PERSISTENT_VOLUME_CLAIM or claim is None or emulated(md):
        return None
    return claim.claim_name


def _tokenizer_volumes(md: ModelDeployment) -> list[Manifest]:
    if _from_hub(md):
        return [{"name": "tokenizer", "emptyDir": {"sizeLimit": TOKENIZER_LIMIT}}]
    claim = _claim(md)
    return [] if claim is None else [{"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}]


def _tokenizer_mounts(md: ModelDeployment) -> list[Manifest]:
    if _from_hub(md):
        return [{"name": "tokenizer", "mountPath": TOKENIZER_PATH, "readOnly": True}]
    return [] if _claim(md) is None else [{"name": "model", "mountPath": MODEL_VOLUME_PATH, "readOnly": True}]


def _download(md: ModelDeployment, images: Images) -> Manifest:
    """Fetches the tokenizer's files and ends well whether it could or not: a router serves without them too."""
    hub = md.spec.model.source.hugging_face
    arguments = ["--repository", (hub and hub.repository) or md.spec.model.name, "--into", TOKENIZER_PATH]
    if hub is not None and hub.revision is not None:
        arguments += ["--revision", hub.revision]
    passed_on = [entry for entry in md.spec.engine.env if entry.name in HUB_VARIABLES]
    variables = [entry.model_dump(mode="json", by_alias=True, exclude_none=True) for entry in passed_on]
    if hub is not None and hub.token_secret is not None and not any(e.name == "HF_TOKEN" for e in passed_on):
        reference = hub.token_secret.model_dump(mode="json", by_alias=True)
        variables.append({"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}})
    return {
        "name": "tokenizer",
        "image": md.spec.routing.image or images.router,
        "command": list(DOWNLOAD_COMMAND),
        "args": arguments,
        "env": [{"name": "HF_HOME", "value": "/tmp/hub"}, *variables],  # noqa: S108 - the pod's own mount
        "resources": {"requests": dict(RESOURCES)},
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "tokenizer", "mountPath": TOKENIZER_PATH},
        ],
        "securityContext": container_security(),
    }
