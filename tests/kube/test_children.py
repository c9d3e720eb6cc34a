from __future__ import annotations

import pytest

from paceline.api.v1alpha1 import load
from paceline.policy.resources import children
from tests.api.documents import SAMPLES
from tests.kube.conftest import Kube

pytestmark = [pytest.mark.kube, pytest.mark.timeout(300)]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_server_accepts_every_child_of_every_sample(kube: Kube, path) -> None:
    refused = []
    for manifest in children(load(path.read_text(), path.name), replicas={"flexible": 2}).manifests():
        # Its CRD belongs to another project; a cluster without it is a case of its own.
        if manifest["kind"] == "LeaderWorkerSet":
            continue
        status, answer = kube.create(manifest, "default", dryRun="All")
        if status != 201:
            refused.append((manifest["kind"], answer.get("message")))
    assert refused == []
