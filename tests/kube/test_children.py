from __future__ import annotations

import pytest

from paceline.api.v1alpha1 import load
from paceline.policy.resources import OPTIONAL_KINDS, children
from tests.api.documents import ROOT, SAMPLES
from tests.kube.client import Kube, root
from tests.kube.conftest import install_crd

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def kinds(kube: Kube) -> frozenset[str]:
    """Optional kinds that this server has, LeaderWorkerSets among them: a schema for them comes with the tests."""
    install_crd(
        kube,
        ROOT / "tests" / "kube" / "crds" / "leaderworkersets.yaml",
        "/apis/leaderworkerset.x-k8s.io/v1/leaderworkersets",
    )
    found = set()
    for kind in OPTIONAL_KINDS:
        version, _, name = kind.rpartition("/")
        status, answer = kube.request("GET", root(version))
        if status == 200 and any(entry["kind"] == name for entry in answer["resources"]):
            found.add(kind)
    return frozenset(found)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_server_accepts_every_child_of_every_sample(kube: Kube, kinds: frozenset[str], path) -> None:
    refused = []
    for manifest in children(load(path.read_text(), path.name), replicas={"flexible": 2}, kinds=kinds).manifests():
        status, answer = kube.create(manifest, "default", dryRun="All")
        if status != 201:
            refused.append((manifest["kind"], answer.get("message")))
    assert refused == []


def test_the_server_refuses_a_workload_over_several_nodes_that_is_not_valid(kube: Kube, kinds: frozenset[str]) -> None:
    assert "leaderworkerset.x-k8s.io/v1/LeaderWorkerSet" in kinds
    workload = children(load((ROOT / "manifests" / "samples" / "multi-node.yaml").read_text(), "x")).engines[0].workload
    workload["spec"]["leaderWorkerTemplate"]["size"] = 0
    status, answer = kube.create(workload, "default", dryRun="All")
    assert status == 422, answer
