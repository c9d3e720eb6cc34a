"""A deployment's ordinary life: made, looked after, deleted. Pods are ready at once; nothing runs in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from paceline.api import labels
from paceline.api.labels import KIND
from tests.kube.client import MERGE, STRATEGIC, Kube, condition, model_path, until
from tests.kube.operators import Operator
from tests.kube.scene import CHILD_KINDS, Scene
from tests.kube.testbed import TestBed

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600), pytest.mark.usefixtures("operator")]


def test_an_applied_deployment_gets_all_its_children_and_says_that_it_is_ready(scene: Scene) -> None:
    scene.apply().until_ready()
    found = {kind: len(scene.children(kind)) for kind in CHILD_KINDS}
    assert found == {
        "ConfigMap": 3, "Service": 2, "ServiceAccount": 1, "Pod": 3, "Deployment": 2, "Role": 1, "RoleBinding": 1,
        "NetworkPolicy": 2, "PodDisruptionBudget": 2,
    }  # fmt: skip
    assert scene.roles() == {"prefill": 1, "decode": 1}


def test_every_child_belongs_to_the_deployment_and_was_applied_by_paceline(scene: Scene) -> None:
    scene.apply().until_ready()
    uid = scene.resource["metadata"]["uid"]
    for kind in CHILD_KINDS.keys() - {"Pod"}:
        for child in scene.children(kind):
            owners = child["metadata"]["ownerReferences"]
            assert [(one["kind"], one["uid"], one["controller"]) for one in owners] == [(KIND, uid, True)]
            managers = {entry["manager"]: entry["operation"] for entry in child["metadata"]["managedFields"]}
            assert managers.get(labels.FIELD_MANAGER) == "Apply", (kind, managers)


def test_the_status_counts_roles_and_every_condition_is_of_the_last_generation(scene: Scene) -> None:
    scene.apply().until_ready()
    resource = scene.resource
    status, generation = resource["status"], resource["metadata"]["generation"]
    assert status["observedGeneration"] == generation
    assert {one["observedGeneration"] for one in status["conditions"]} == {generation}
    assert (status["roles"]["prefill"]["summary"], status["roles"]["decode"]["summary"]) == ("1/1", "1/1")
    assert (status["ratio"], status["engines"]) == ("1:1", "2/2")
    for kind in ("Accepted", "Available", "PrefillReady", "DecodeReady", "RouterReady"):
        assert condition(resource, kind)["status"] == "True", kind
    assert condition(resource, "Progressing")["status"] == "False"


def test_a_cluster_without_pod_monitors_serves_and_says_what_is_left_out(scene: Scene) -> None:
    scene.apply().until_ready()
    told = [one for one in scene.status["conditions"] if "PodMonitor" in one["message"]]
    assert told, scene.status["conditions"]
    assert {one["reason"] for one in told} == {"KindMissing"}


def test_kubectl_get_shows_what_people_look_for(scene: Scene, testbed: TestBed) -> None:
    scene.apply().until_ready()
    head, row = testbed.kubectl("get", "mdep", "-n", scene.namespace).stdout.splitlines()
    assert head.split() == ["NAME", "MODEL", "READY", "PREFILL", "DECODE", "SLO", "AGE"]
    assert re.match(r"small\s+Qwen/Qwen3-32B\s+True\s+1/1\s+1/1", row)


def test_kubectl_describe_shows_events(scene: Scene, testbed: TestBed) -> None:
    scene.apply().until_ready()
    shown = testbed.kubectl("describe", "mdep", "small", "-n", scene.namespace).stdout
    assert "Events:  <none>" not in shown
    assert scene.events()


def test_nothing_is_written_while_nothing_changes(scene: Scene, kube: Kube, operator: Operator) -> None:
    scene.apply().until_ready()

    def at_rest() -> bool:
        writes, passes = operator.writes(), operator.metric("paceline_operator_reconciles_total")
        # Something that means nothing: it makes a pass, and that pass must not write.
        note = {"metadata": {"annotations": {"somebody/else": str(passes)}}}
        version = kube.ok("PATCH", scene.path, note, content_type=MERGE)["metadata"]["resourceVersion"]
        until("another pass", lambda: operator.metric("paceline_operator_reconciles_total") > passes, seconds=20)
        return (operator.writes(), scene.resource["metadata"]["resourceVersion"]) == (writes, version)

    # Writes are counted for all deployments, and one of an earlier test may still be going.
    scene.until("two passes in a row without writes", lambda: at_rest() and at_rest(), seconds=180)


@pytest.mark.parametrize("kind", sorted(CHILD_KINDS.keys() - {"Pod"}))
def test_a_deleted_child_comes_back(scene: Scene, kube: Kube, kind: str) -> None:
    scene.apply().until_ready()
    before = {child["metadata"]["name"]: child["metadata"]["uid"] for child in scene.children(kind)}
    for name in before:
        kube.delete(f"{CHILD_KINDS[kind].format(scene.namespace)}/{name}")

    def back() -> bool:
        now = {child["metadata"]["name"]: child["metadata"]["uid"] for child in scene.children(kind)}
        return now.keys() == before.keys() and not set(now.values()) & set(before.values())

    scene.until(f"every {kind} is back", back)
    scene.until_ready()


EDITS: list[tuple[str, str, dict[str, Any]]] = [
    ("Service", "router", {"spec": {"ports": [{"port": 80, "targetPort": "nowhere", "name": "http"}]}}),
    ("Deployment", "router", {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}),
    ("Role", "router", {"rules": []}),
    ("NetworkPolicy", "engines", {"spec": {"ingress": []}}),
    ("PodDisruptionBudget", "engines", {"spec": {"maxUnavailable": 7}}),
    ("ServiceAccount", "router", {"metadata": {"labels": {labels.COMPONENT: "mine"}}}),
]


@pytest.mark.parametrize(("kind", "name", "edit"), EDITS, ids=[f"{kind}-{name}" for kind, name, _ in EDITS])
def test_what_was_edited_by_hand_is_put_right(scene: Scene, kube: Kube, kind: str, name: str, edit: Any) -> None:
    scene.apply().until_ready()
    path = f"{CHILD_KINDS[kind].format(scene.namespace)}/small-{name}"

    def shape() -> Any:
        found = kube.get(path)
        assert found is not None
        return {key: value for key, value in found.items() if key in {"spec", "rules"}}, found["metadata"]["labels"]

    before = shape()
    kube.ok("PATCH", path, edit, content_type=MERGE)
    scene.until("the edit is undone", lambda: shape() == before)


def test_fields_that_others_own_on_a_child_stay(scene: Scene, kube: Kube) -> None:
    scene.apply().until_ready()
    path = f"{CHILD_KINDS['Service'].format(scene.namespace)}/small-router"
    mine = {"metadata": {"annotations": {"cloud/load-balancer": "internal"}}}
    kube.ok("PATCH", path, mine, content_type=MERGE)
    edit = {"spec": {"selector": {labels.COMPONENT: "nobody"}}}
    kube.ok("PATCH", path, edit, content_type=MERGE)

    def found() -> Any:
        service = kube.get(path)
        assert service is not None
        return service

    scene.until("our field is put right", lambda: found()["spec"]["selector"][labels.COMPONENT] == "router")
    assert found()["metadata"]["annotations"]["cloud/load-balancer"] == "internal"


def test_an_engine_that_dies_is_replaced_and_its_role_given_again(scene: Scene) -> None:
    scene.apply().until_ready()
    for role in ("prefill", "decode"):
        (victim,) = [pod["metadata"]["name"] for pod in scene.pods() if pod["metadata"]["labels"][labels.ROLE] == role]
        scene.delete_pod(victim, grace_seconds=0)
        scene.until("it is gone", lambda name=victim: name not in scene.names())  # type: ignore[misc]
        scene.until_roles(prefill=1, decode=1)
    scene.until_ready()


def test_a_role_label_and_a_gate_that_somebody_changed_are_put_right(scene: Scene, kube: Kube) -> None:
    scene.apply().until_ready()
    pod = scene.pods()[0]["metadata"]["name"]
    scene.patch_pod(pod, {"metadata": {"labels": {labels.ROLE: None}}})
    scene.until_roles(prefill=1, decode=1)
    shut = {"status": {"conditions": [{"type": labels.SERVING_GATE, "status": "False"}]}}
    path = f"/api/v1/namespaces/{scene.namespace}/pods/{pod}/status"
    kube.ok("PATCH", path, shut, content_type=STRATEGIC)
    scene.until_roles(prefill=1, decode=1)


def test_a_deleted_deployment_leaves_nothing_behind(scene: Scene) -> None:
    scene.apply().until_ready()
    scene.delete()
    scene.until_gone()


def test_a_deployment_that_is_deleted_before_it_is_ready_leaves_nothing_behind(scene: Scene) -> None:
    scene.apply()
    scene.until("its first child", lambda: scene.children("ConfigMap"))
    scene.delete()
    scene.until_gone()


def test_a_deployment_that_is_made_again_at_once_is_another_one(scene: Scene, kube: Kube) -> None:
    scene.apply().until_ready()
    before = scene.resource["metadata"]["uid"]
    scene.delete()
    until("it is gone", lambda: kube.get(scene.path) is None)
    scene.apply().until_ready()
    after = scene.resource["metadata"]["uid"]
    assert after != before

    def owners() -> set[str]:
        kinds = CHILD_KINDS.keys() - {"Pod"}
        return {one["metadata"]["ownerReferences"][0]["uid"] for kind in kinds for one in scene.children(kind)}

    scene.until("all children are the new one's", lambda: owners() == {after})


def test_one_name_in_two_namespaces_is_two_deployments(kube: Kube, namespaces: Callable[[], str]) -> None:
    one, other = Scene(kube, namespaces()), Scene(kube, namespaces())
    other.pool(minReplicas=2)
    for scene in (one, other):
        scene.apply()
    for scene in (one, other):
        scene.until_ready()
    assert (one.roles(), other.roles()) == ({"prefill": 1, "decode": 1}, {"prefill": 2, "decode": 2})
    other.delete()
    other.until_gone()
    one.until_ready()
    assert len(one.names()) == 2


def test_two_deployments_in_one_namespace_keep_apart(kube: Kube, namespace: str) -> None:
    one, other = Scene(kube, namespace, "a"), Scene(kube, namespace, "a-router")
    for scene in (one, other):
        scene.apply()
    for scene in (one, other):
        scene.until_ready()
    one.delete()
    one.until_gone()
    other.until_ready()


@pytest.mark.parametrize("name", ["n" * 63, "long." * 40 + "x" * 53], ids=["63", "253-with-dots"])
def test_a_name_of_any_length_that_the_server_takes_works(kube: Kube, namespace: str, name: str) -> None:
    scene = Scene(kube, namespace, name).apply()
    found = until(
        "it is Ready",
        lambda: condition(kube.get(model_path(namespace, name)), "Ready").get("status") == "True",
        trouble=scene.describe,
    )
    assert found
    pods = kube.pods(namespace)
    assert len(pods) == 3
    assert all(len(pod["metadata"]["name"]) <= 63 for pod in pods)
    kube.delete(scene.path)
    until("nothing is left", lambda: not kube.pods(namespace))


def test_an_object_with_its_labels_that_somebody_else_made_is_left_alone(scene: Scene, kube: Kube) -> None:
    scene.apply().until_ready()
    stranger = {
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "mine", "labels": {labels.DEPLOYMENT: "small"}}, "data": {"a": "b"},
    }  # fmt: skip
    kube.apply(stranger, scene.namespace)
    scene.change("spec.slo.ttftMilliseconds", 1500).until_ready()
    assert kube.get(f"{CHILD_KINDS['ConfigMap'].format(scene.namespace)}/mine") is not None
