from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from paceline.api.v1alpha1 import ModelDeployment, from_manifest
from paceline.policy.resources import OPTIONAL_KINDS, Images, children
from tests.api.documents import SAMPLES, changed, deployment, minimal_manifest, sample

NAMES = [path.stem for path in SAMPLES]


@pytest.mark.parametrize("name", NAMES)
def test_children_are_the_same_on_every_run(name: str) -> None:
    assert json.dumps(children(sample(name)).manifests()) == json.dumps(children(sample(name)).manifests())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_referred_to_comes_before_what_refers_to_it(name: str) -> None:
    kinds = [manifest["kind"] for manifest in children(sample(name)).manifests()]
    last_configuration = max(index for index, kind in enumerate(kinds) if kind in {"ConfigMap", "Service"})
    first_workload = min(index for index, kind in enumerate(kinds) if kind in {"Deployment", "LeaderWorkerSet"})
    assert last_configuration < first_workload


@pytest.mark.parametrize("name", NAMES)
def test_no_two_places_share_an_object_so_that_changing_one_changes_nothing_else(name: str) -> None:
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if isinstance(value, dict | list):
            assert id(value) not in seen
            seen.add(id(value))
            for item in value.values() if isinstance(value, dict) else value:
                visit(item)

    manifests = copy.copy(children(sample(name)).manifests())
    for manifest in manifests:
        visit(manifest)


def test_replicas_are_counted_by_pool() -> None:
    built = children(sample("heterogeneous"), replicas={"decode": 3})
    assert ["replicas" in engine.workload["spec"] for engine in built.engines] == [False, True]


def test_images_of_the_operator_are_used_where_the_resource_names_none() -> None:
    built = children(deployment(), images=Images(engine="mirror/worker:1", router="mirror/router:1"))
    assert built.engines[0].pod_template["spec"]["containers"][0]["image"] == "mirror/worker:1"
    assert built.router.pod_template["spec"]["containers"][0]["image"] == "mirror/router:1"


@pytest.mark.parametrize("name", ["n" * 200, "a.b.c", "1st", "x" * 63])
def test_every_child_has_a_valid_name_whatever_the_resource_is_called(name: str) -> None:
    for manifest in children(named(name)).manifests():
        assert len(manifest["metadata"]["name"]) <= 63
        assert manifest["metadata"]["name"][0].isalpha()
        assert all(len(value) <= 63 for value in manifest["metadata"]["labels"].values())


def test_pods_of_a_workload_have_whole_host_names() -> None:
    for manifest in children(named("n" * 200)).manifests():
        if manifest["kind"] == "Deployment":
            assert len(manifest["metadata"]["name"]) + len("-0123456789-01234") <= 63


def test_one_name_in_two_namespaces_stays_apart() -> None:
    manifest = minimal_manifest()
    manifest["metadata"]["namespace"] = "other"
    namespaces = {child["metadata"]["namespace"] for child in children(from_manifest(manifest, "test")).manifests()}
    assert namespaces == {"other"}


def test_kinds_that_the_cluster_lacks_are_left_out_and_named() -> None:
    built = children(sample("multi-node"), kinds=frozenset())
    kinds = {manifest["kind"] for manifest in built.manifests()}
    assert not kinds & {"LeaderWorkerSet", "PodMonitor", "PodDisruptionBudget", "NetworkPolicy"}
    assert built.missing == (
        "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet",
        "monitoring.coreos.com/v1/PodMonitor",
        "networking.k8s.io/v1/NetworkPolicy",
        "policy/v1/PodDisruptionBudget",
    )


def test_a_kind_that_is_not_used_is_not_missed() -> None:
    kinds = OPTIONAL_KINDS - {"leaderworkerset.x-k8s.io/v1/LeaderWorkerSet", "policy/v1/PodDisruptionBudget"}
    assert children(deployment(), kinds=kinds).missing == ()


@pytest.mark.parametrize("name", NAMES)
def test_every_namespaced_child_is_owned_by_the_resource_once_that_is_in_a_cluster(name: str) -> None:
    md = sample(name)
    in_cluster = md.model_copy(update={"metadata": md.metadata.model_copy(update={"uid": "u-1"})})
    for manifest in children(in_cluster).manifests():
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == ("u-1", True)


def named(name: str) -> ModelDeployment:
    return from_manifest(changed("metadata.name", name), "test")
