from __future__ import annotations

from typing import Any

import pytest

from paceline.api import labels, wire
from paceline.errors import SpecError
from paceline.policy.resources import Images, RouterChildren
from paceline.policy.resources.router import router_children
from tests.api.documents import deployment


def built(**sections: Any) -> RouterChildren:
    return router_children(deployment(**sections), images=Images())


def with_source(source: dict[str, Any]) -> dict[str, Any]:
    return {"name": "org/model", "source": source}


def container(children: RouterChildren) -> dict[str, Any]:
    return children.pod_template["spec"]["containers"][0]


def flags(children: RouterChildren) -> dict[str, str]:
    arguments = container(children)["args"]
    return dict(zip(arguments[::2], arguments[1::2], strict=True))


def test_the_router_runs_with_its_configuration_from_the_config_map() -> None:
    children = built()
    assert container(children)["command"] == ["python", "-m", "paceline_worker.router"]
    (variable,) = [entry for entry in container(children)["env"] if entry["name"] == "PACELINE_ROUTER_CONFIG"]
    reference = variable["valueFrom"]["configMapKeyRef"]
    assert reference["name"] == children.config_map["metadata"]["name"]
    document = children.config_map["data"][reference["key"]]
    assert wire.decode(wire.RouterConfig, document, source="test").objective.ttft_milliseconds == 2000


def test_its_flags_agree_with_its_ports_and_mounts() -> None:
    children = built()
    ports = {entry["name"]: str(entry["containerPort"]) for entry in container(children)["ports"]}
    assert flags(children)["--port"] == ports["api"]
    assert flags(children)["--admin-port"] == ports["admin"]


def test_they_learn_of_their_engines_from_the_pods_that_take_requests() -> None:
    found = flags(built())
    assert found["--fleet-source"] == "kubernetes"
    assert found["--fleet-selector"] == "paceline.dev/deployment=small,paceline.dev/component=engine"


def test_the_service_leads_to_the_routers_of_this_deployment_only() -> None:
    children = built()
    assert children.service["spec"]["selector"].items() <= children.pod_template["metadata"]["labels"].items()
    assert children.service["spec"]["selector"] == {labels.DEPLOYMENT: "small", labels.COMPONENT: "router"}
    assert children.service["spec"]["ports"] == [
        {"name": "http", "port": 80, "targetPort": "api", "protocol": "TCP"},
    ]


def test_replicas_image_and_service_type_come_from_the_spec() -> None:
    children = built(routing={"replicas": 5, "image": "mine", "serviceType": "LoadBalancer"})
    assert children.deployment["spec"]["replicas"] == 5
    assert container(children)["image"] == "mine"
    assert children.service["spec"]["type"] == "LoadBalancer"


def test_there_are_never_fewer_routers_than_asked_for_during_a_roll_out() -> None:
    assert built().deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_router_has_longer_to_stop_than_it_waits_for_requests_in_flight() -> None:
    assert built().pod_template["spec"]["terminationGracePeriodSeconds"] > 30 + 5


def test_routers_roll_out_when_their_configuration_changes() -> None:
    assert built().pod_template != built(slo={"ttftMilliseconds": 1, "itlMilliseconds": 1}).pod_template


def test_routers_meet_the_restricted_pod_security_standard() -> None:
    children = built()
    assert children.pod_template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert container(children)["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_users_pod_template_is_merged_last() -> None:
    patch = {"spec": {"containers": [{"name": "router", "resources": {"limits": {"memory": "1Gi"}}}]}}
    resources = container(built(routing={"podTemplate": patch}))["resources"]
    assert resources == {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "1Gi"}}


def test_a_pod_template_that_does_not_fit_is_refused_with_its_path() -> None:
    with pytest.raises(SpecError, match=r"spec\.routing\.podTemplate\.spec\.volumes"):
        built(routing={"podTemplate": {"spec": {"volumes": "none"}}})


def test_a_tokenizer_from_the_hub_is_fetched_before_the_router_starts() -> None:
    hub = {"repository": "own/er", "revision": "abc", "tokenSecret": {"name": "hub", "key": "token"}}
    children = built(
        model=with_source({"type": "HuggingFace", "huggingFace": hub}),
        engine={"env": [{"name": "HF_ENDPOINT", "value": "http://mirror"}, {"name": "OTHER", "value": "1"}]},
        routing={"image": "mine"},
    )
    (fetch,) = children.pod_template["spec"]["initContainers"]
    assert (fetch["image"], fetch["command"][-1]) == ("mine", "paceline_worker.router.tokens.download")
    assert fetch["args"] == ["--repository", "own/er", "--into", "/var/lib/paceline/tokenizer", "--revision", "abc"]
    variables = {entry["name"]: entry.get("value") or entry["valueFrom"] for entry in fetch["env"]}
    assert variables == {
        "HF_HOME": "/tmp/hub",
        "HF_ENDPOINT": "http://mirror",
        "HF_TOKEN": {"secretKeyRef": {"name": "hub", "key": "token"}},
    }
    assert fetch["securityContext"] == container(children)["securityContext"]


def test_the_router_reads_the_tokenizer_and_never_writes_it() -> None:
    children = built()
    (mount,) = [one for one in container(children)["volumeMounts"] if one["name"] == "tokenizer"]
    assert mount == {"name": "tokenizer", "mountPath": "/var/lib/paceline/tokenizer", "readOnly": True}
    assert "tokenizer" in {volume["name"] for volume in children.pod_template["spec"]["volumes"]}


def test_a_model_on_a_volume_brings_its_tokenizer_along() -> None:
    claim = {"type": "PersistentVolumeClaim", "persistentVolumeClaim": {"claimName": "weights"}}
    children = built(model=with_source(claim))
    assert "initContainers" not in children.pod_template["spec"]
    volumes = {volume["name"]: volume for volume in children.pod_template["spec"]["volumes"]}
    assert volumes["model"]["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}
    assert {one["name"]: one["mountPath"] for one in container(children)["volumeMounts"]}["model"] == (
        "/var/lib/paceline/model"
    )


def test_emulated_engines_need_no_tokenizer() -> None:
    spec = built(engine={"env": [{"name": "PACELINE_ENGINE_BACKEND", "value": "emulator"}]}).pod_template["spec"]
    assert "initContainers" not in spec
    assert [volume["name"] for volume in spec["volumes"]] == ["tmp"]
