"""From nothing to a completion with kubectl: the install manifest and a sample, as a user applies them. The operator's
own pods run too, as processes, with the rights and the probes of the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from tests.api.documents import ROOT
from tests.helm.charts import NAME, NAMESPACE, REPLICAS
from tests.kube.client import Kube, condition, until
from tests.kube.kubelet import Kubelet
from tests.kube.pods import ProcessSettings
from tests.kube.scene import Scene
from tests.kube.testbed import TestBed

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def installed(testbed: TestBed, kubelet: Kubelet) -> Iterator[TestBed]:
    kubelet.run_processes(NAMESPACE)
    testbed.kubectl("apply", "-f", "manifests/install.yaml")
    try:
        yield testbed
    finally:
        # The other tests start operators of their own.
        testbed.kubectl("delete", "deployment", "-n", NAMESPACE, NAME)


def operators(kube: Kube) -> list[str]:
    pods = kube.pods(NAMESPACE, "app.kubernetes.io/component=operator")
    return [pod["metadata"]["name"] for pod in pods if condition(pod, "Ready").get("status") == "True"]


def sample_scene(kube: Kube, namespace: str, file: str) -> Scene:
    manifest = yaml.safe_load((ROOT / "manifests" / file).read_text())
    scene = Scene(kube, namespace, manifest["metadata"]["name"])
    scene.manifest = manifest
    return scene


def test_both_operators_get_ready_and_one_leads(installed: TestBed, kube: Kube) -> None:
    until("two operators are ready", lambda: len(operators(kube)) == REPLICAS, seconds=180)
    lease = "/apis/coordination.k8s.io/v1/namespaces/paceline-system/leases/paceline-operator"
    holder = until("somebody leads", lambda: (kube.get(lease) or {}).get("spec", {}).get("holderIdentity"))
    assert any(holder.startswith(name) for name in operators(kube))


@pytest.mark.parametrize("file", ["samples/quickstart.yaml", "kind/emulated.yaml"])
def test_an_applied_file_gets_ready_and_answers(
    installed: TestBed, kube: Kube, kubelet: Kubelet, namespace: str, file: str
) -> None:
    kubelet.run_processes(namespace, ProcessSettings(speed=20))
    installed.kubectl("apply", "-n", namespace, "-f", f"manifests/{file}")
    scene = sample_scene(kube, namespace, file)
    waited = installed.kubectl("wait", "-n", namespace, "--for=condition=Ready", "--timeout=110s", f"mdep/{scene.name}")
    assert "condition met" in waited.stdout
    answer = scene.complete(prompt="Once upon a time", max_tokens=16)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["text"]
    installed.kubectl("delete", "-n", namespace, "-f", f"manifests/{file}")
    scene.until_gone(seconds=180)
