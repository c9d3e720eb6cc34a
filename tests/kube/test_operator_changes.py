"""Changes of the spec: every field that can be changed, those that can't, and edits that make no sense."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from paceline.api import labels
from paceline.planning.calibration import entry_text
from paceline.policy.scaling.profiles import get_profile
from tests.kube.client import Kube, Manifest
from tests.kube.operators import Operator
from tests.kube.scene import Scene
from tests.kube.testbed import TestBed

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600), pytest.mark.usefixtures("operator")]


def engine(scene: Scene) -> Manifest:
    container: Manifest = scene.pods()[0]["spec"]["containers"][0]
    return container


def router(scene: Scene) -> Manifest:
    container: Manifest = scene.pods(labels.COMPONENT_ROUTER)[0]["spec"]["containers"][0]
    return container


def configuration(scene: Scene, key: str) -> str:
    """The document that the running pods read."""
    container = engine(scene) if key == "engine.json" else router(scene)
    (name,) = [
        entry["valueFrom"]["configMapKeyRef"]["name"]
        for entry in container["env"]
        if entry.get("valueFrom", {}).get("configMapKeyRef", {}).get("key") == key
    ]
    # Nothing for a moment, when the pod was one that has just been replaced.
    return next((one["data"][key] for one in scene.children("ConfigMap") if one["metadata"]["name"] == name), "")


def service(scene: Scene) -> Manifest:
    (found,) = [one for one in scene.children("Service") if one["metadata"]["name"].endswith("-router")]
    return found


CHANGES: list[tuple[str, Any, Callable[[Scene], Any], Any]] = [
    ("spec.model.servedName", "chat", lambda s: '"servedNames":["chat"]' in configuration(s, "engine.json"), True),
    ("spec.model.maxModelLen", 4096, lambda s: '"maxModelLen":4096' in configuration(s, "engine.json"), True),
    ("spec.model.source", {"type": "Local", "local": {"path": "/m"}},
     lambda s: '"reference":"/m"' in configuration(s, "engine.json"), True),
    ("spec.model.loraAdapters", [{"name": "legal", "path": "/a"}],
     lambda s: '"legal"' in configuration(s, "router.json"), True),
    ("spec.engine.image", "mine:2", lambda s: engine(s)["image"], "mine:2"),
    ("spec.engine.extraArgs", ["--enforce-eager"],
     lambda s: "--enforce-eager" in configuration(s, "engine.json"), True),
    ("spec.engine.env", [{"name": "A", "value": "1"}], lambda s: {"name": "A", "value": "1"} in engine(s)["env"], True),
    ("spec.engine.kvCache", {"blockSize": 32}, lambda s: '"blockSize":32' in configuration(s, "engine.json"), True),
    ("spec.engine.drainSeconds", 7, lambda s: s.pods()[0]["spec"]["terminationGracePeriodSeconds"], 37),
    ("spec.engine.podTemplate", {"metadata": {"labels": {"team": "a"}}},
     lambda s: s.pods()[0]["metadata"]["labels"].get("team"), "a"),
    ("spec.slo.ttftMilliseconds", 1234, lambda s: '"ttftMilliseconds":1234' in configuration(s, "router.json"), True),
    ("spec.slo.classes", [{"name": "gold", "priority": 5, "ttftMilliseconds": 9, "itlMilliseconds": 9}],
     lambda s: '"gold"' in configuration(s, "router.json"), True),
    ("spec.routing.replicas", 3, lambda s: len(s.pods(labels.COMPONENT_ROUTER)), 3),
    ("spec.routing.image", "router:2", lambda s: router(s)["image"], "router:2"),
    ("spec.routing.serviceType", "NodePort", lambda s: service(s)["spec"]["type"], "NodePort"),
    ("spec.routing.localPrefillTokens", 77,
     lambda s: '"localPrefillTokens":77' in configuration(s, "router.json"), True),
    ("spec.routing.admission", {"maxQueuedRequests": 5},
     lambda s: '"maxQueuedRequests":5' in configuration(s, "router.json"), True),
    ("spec.routing.timeouts", {"connectMilliseconds": 55},
     lambda s: '"connectMilliseconds":55' in configuration(s, "router.json"), True),
    ("spec.routing.podTemplate", {"spec": {"priorityClassName": "system-cluster-critical"}},
     lambda s: s.pods(labels.COMPONENT_ROUTER)[0]["spec"].get("priorityClassName"), "system-cluster-critical"),
    # What `paceline calibrate` writes; no field of the spec, and so no new generation.
    ("metadata.annotations", {labels.ENGINE_PROFILE: entry_text(replace(get_profile("tiny-cpu"), name="mine"))},
     lambda s: r'"engineProfile":"[[profile]]\nname = \"mine\"\n' in configuration(s, "router.json"), True),
]  # fmt: skip


@pytest.fixture(scope="module")
def changing(kube: Kube, operator: Operator) -> Iterator[Scene]:
    """One deployment that all changes are made to, one after the other."""
    name = f"test-{uuid4().hex[:8]}"
    kube.ok("POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield Scene(kube, name).apply().until_ready()
    kube.delete(f"/api/v1/namespaces/{name}")


@pytest.mark.parametrize(("path", "value", "look", "expected"), CHANGES, ids=[path for path, *_ in CHANGES])
def test_a_changed_field_reaches_the_pods(
    changing: Scene, path: str, value: Any, look: Callable[[Scene], Any], expected: Any
) -> None:
    scene = changing.change(path, value).until_ready()
    # Old pods may be leaving while the new ones are all there.
    scene.until(f"{path} in the pods", lambda: len(scene.names()) == 2 and look(scene) == expected)


def test_a_change_of_counts_adds_and_removes_engines_without_touching_the_others(scene: Scene) -> None:
    scene.pool(maxReplicas=4).apply().until_ready()
    first = scene.names()
    scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 3
    scene.apply().until_ready()
    assert scene.roles() == {"prefill": 1, "decode": 3}
    assert first <= scene.names()
    scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 1
    scene.apply().until_ready()
    scene.until_roles(prefill=1, decode=1)
    scene.until("two pods are left", lambda: len(scene.names()) == 2)


def test_a_change_of_the_ratio_changes_labels_and_restarts_nothing(scene: Scene) -> None:
    scene.pool(maxReplicas=4)
    scene.manifest["spec"]["pools"]["prefill"]["minReplicas"] = 3
    scene.apply().until_ready()
    before = {pod["metadata"]["uid"] for pod in scene.pods()}
    assert scene.roles() == {"prefill": 3, "decode": 1}
    scene.manifest["spec"]["pools"]["prefill"]["minReplicas"] = 1
    scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 3
    scene.apply()
    scene.until_roles(prefill=1, decode=3)
    scene.until_ready()
    assert {pod["metadata"]["uid"] for pod in scene.pods()} == before
    assert scene.status["ratio"] == "1:3"


def test_the_history_tells_of_the_last_changes_and_stays_short(scene: Scene) -> None:
    scene.pool(maxReplicas=4).apply().until_ready()
    for round_ in range(12):
        scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 1 + round_ % 2
        scene.apply()
        generation = scene.resource["metadata"]["generation"]
        scene.until("it is observed", lambda seen=generation: scene.status.get("observedGeneration") == seen)  # type: ignore[misc]
    history = scene.status["scaling"]["history"]
    assert len(history) == 10
    assert history[0]["after"]["decode"] == 2


def test_hardware_of_its_own_for_a_role_makes_a_pool_of_its_own(scene: Scene) -> None:
    scene.apply().until_ready()
    scene.manifest["spec"]["pools"]["decode"].update(accelerator={"count": 2}, parallelism={"tensor": 2})
    scene.apply().until_ready()
    scene.until_roles(prefill=1, decode=1)
    pools = {pod["metadata"]["labels"][labels.ROLE]: pod["metadata"]["labels"][labels.POOL] for pod in scene.pods()}
    assert pools == {"prefill": "prefill", "decode": "decode"}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.model.name", "another/model", "make another ModelDeployment"),
        ("spec.pools", {"mode": "Aggregated", "aggregated": {"maxReplicas": 1, "accelerator": {"count": 1}}},
         "make another ModelDeployment"),
    ],
    ids=["model", "mode"],
)  # fmt: skip
def test_what_can_not_be_changed_is_refused_by_the_server_and_nothing_happens(
    scene: Scene, path: str, value: Any, said: str
) -> None:
    scene.apply().until_ready()
    before = scene.names()
    status, answer = scene.kube.request(
        "PATCH", scene.path, scene.set(path, value).manifest, content_type="application/apply-patch+yaml",
        fieldManager="tester", force="true",
    )  # fmt: skip
    assert (status, said in answer["message"]) == (422, True), answer
    assert scene.names() == before


BAD: list[tuple[str, Any, str]] = [
    ("spec.engine.podTemplate", {"spec": {"containers": "none"}}, "spec.engine.podTemplate.spec.containers"),
    ("spec.routing.podTemplate", {"spec": {"volumes": [{"emptyDir": {}}]}}, "spec.routing.podTemplate.spec.volumes"),
    ("spec.tenancy", {"reasoningTokens": 100}, "spec.tenancy.reasoningTokens"),
]


@pytest.mark.parametrize(("path", "value", "field"), BAD, ids=[field for *_, field in BAD])
def test_a_bad_edit_is_told_by_its_field_and_what_runs_goes_on(scene: Scene, path: str, value: Any, field: str) -> None:
    scene.apply().until_ready()
    good = copy.deepcopy(scene.manifest)
    before = {pod["metadata"]["uid"] for pod in scene.pods()}
    scene.change(path, value)
    told = scene.until_condition("Accepted", "False")
    assert field in told["message"]
    assert scene.condition("Available")["status"] == "True"

    # What was accepted before is still looked after.
    victim = min(scene.names())
    scene.delete_pod(victim, grace_seconds=0)
    scene.until("it is gone", lambda: victim not in scene.names())
    scene.until_roles(prefill=1, decode=1)
    assert len({pod["metadata"]["uid"] for pod in scene.pods()} & before) == 1

    scene.manifest = good
    scene.apply().until_ready()
    assert scene.condition("Accepted")["status"] == "True"


def test_a_spec_that_is_bad_from_the_start_is_told_and_mended(scene: Scene) -> None:
    scene.set("spec.engine.podTemplate", {"spec": {"containers": "none"}}).apply()
    told = scene.until_condition("Accepted", "False")
    assert "spec.engine.podTemplate.spec.containers" in told["message"]
    assert scene.condition("Ready")["status"] == "False"
    assert scene.pods() == []
    del scene.manifest["spec"]["engine"]["podTemplate"]
    scene.apply().until_ready()


def test_a_child_that_the_server_refuses_is_told_in_the_servers_words(scene: Scene) -> None:
    scene.apply().until_ready()
    before = scene.names()
    scene.change("spec.engine.podTemplate", {"spec": {"restartPolicy": "Never"}})
    scene.until(
        "the refusal",
        lambda: any("restartPolicy" in one["message"] for one in scene.status.get("conditions", [])),
    )
    assert scene.names() == before
    assert scene.roles() == {"prefill": 1, "decode": 1}


def test_a_restart_of_the_server_of_resources_loses_nothing(scene: Scene, testbed: TestBed) -> None:
    scene.apply().until_ready()
    testbed.restart("crdserver")
    testbed.until_steady(scene.path)
    scene.change("spec.routing.replicas", 2).until_ready(seconds=180)
