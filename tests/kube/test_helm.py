"""The chart against a real API server, with helm itself: install, test, upgrade, roll back and uninstall, while a
deployment serves. The operator and the test pod run as processes with the rights of the chart's ServiceAccount.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests.helm.charts import CHART, run_helm, template
from tests.kube.client import Kube, until
from tests.kube.kubelet import Kubelet
from tests.kube.pods import ProcessSettings
from tests.kube.scene import Scene
from tests.kube.testbed import TestBed

pytestmark = [pytest.mark.kube, pytest.mark.timeout(400)]

RELEASE = "paceline"
OPERATOR = "paceline-operator"
# The CRD of the suite is there already; in a cluster of one's own helm makes it.
INSTALL = ("--take-ownership", "--wait", "--timeout", "120s")


class Chart:
    """A release in a namespace of its own."""

    def __init__(self, testbed: TestBed, namespace: str) -> None:
        self.testbed = testbed
        self.namespace = namespace

    def helm(self, verb: str, *words: str | Path, check: bool = True) -> str:
        done = run_helm(
            verb, RELEASE, *words, "--namespace", self.namespace, kubeconfig=self.testbed.kubeconfig, check=check
        )
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def chart(testbed: TestBed, kubelet: Kubelet, kube: Kube) -> Iterator[Chart]:
    namespace = f"helm-{uuid4().hex[:6]}"
    kubelet.run_processes(namespace)
    one = Chart(testbed, namespace)
    one.helm("install", CHART, "--create-namespace", *INSTALL)
    yield one
    one.helm("uninstall", "--ignore-not-found")
    kube.request("DELETE", f"/api/v1/namespaces/{namespace}")


@pytest.fixture(scope="module")
def served(chart: Chart, kube: Kube, kubelet: Kubelet, testbed: TestBed) -> Iterator[Scene]:
    """A deployment that the release's operator looks after."""
    namespace = f"team-{uuid4().hex[:6]}"
    testbed.kubectl("create", "namespace", namespace)
    kubelet.run_processes(namespace, ProcessSettings(speed=20))
    manifest = yaml.safe_load((CHART.parents[1] / "manifests" / "samples" / "quickstart.yaml").read_text())
    scene = Scene(kube, namespace, manifest["metadata"]["name"])
    testbed.kubectl("apply", "-n", namespace, "-f", "manifests/samples/quickstart.yaml")
    testbed.kubectl("wait", "-n", namespace, "--for=condition=Ready", "--timeout=110s", f"mdep/{scene.name}")
    yield scene
    kube.request("DELETE", f"/api/v1/namespaces/{namespace}")


def pods_of(kube: Kube, scene: Scene) -> dict[str, str]:
    """Names and identities of the pods of a deployment."""
    found = kube.pods(scene.namespace, f"paceline.dev/deployment={scene.name}")
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in found}


def operator_args(kube: Kube, chart: Chart) -> list[str]:
    deployment = kube.get(f"/apis/apps/v1/namespaces/{chart.namespace}/deployments/{OPERATOR}")
    assert deployment is not None
    found: list[str] = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    return found


def test_the_release_tests_itself(chart: Chart) -> None:
    assert "Phase:          Succeeded" in chart.helm("test", "--timeout", "100s")


def test_a_deployment_gets_ready_and_answers(served: Scene) -> None:
    answer = served.complete(model="qwen3-32b", prompt="Once upon a time", max_tokens=8)
    assert answer.status_code == 200, answer.text


def test_a_test_of_a_release_without_an_operator_fails(chart: Chart, kube: Kube) -> None:
    """Comes before the upgrade, which brings the operator back."""
    chart.helm("upgrade", CHART, *INSTALL, "--set", "operator.replicas=0,test.timeoutSeconds=5")
    until(
        "no operator runs", lambda: not kube.pods(chart.namespace, "app.kubernetes.io/component=operator"), seconds=60
    )
    assert "Failed" in chart.helm("test", "--timeout", "60s", check=False)


def test_upgrade_and_rollback_leave_what_runs_untouched(chart: Chart, kube: Kube, served: Scene) -> None:
    before = pods_of(kube, served)
    assert len(before) >= 3
    chart.helm("upgrade", CHART, *INSTALL, "--set", "operator.workers=7,operator.debug=true")
    assert "7" in operator_args(kube, chart)
    chart.helm("test", "--timeout", "100s")
    assert pods_of(kube, served) == before
    assert served.complete(model="qwen3-32b", prompt="Once more", max_tokens=8).status_code == 200
    chart.helm("rollback", "1", "--wait", "--timeout", "120s")
    assert "7" not in operator_args(kube, chart)
    chart.helm("test", "--timeout", "100s")
    assert pods_of(kube, served) == before
    assert served.complete(model="qwen3-32b", prompt="And again", max_tokens=8).status_code == 200


@pytest.mark.parametrize("settings", [{}, {"bundled.prometheus.enabled": True, "bundled.grafana.enabled": True}])
def test_the_api_server_takes_every_object(chart: Chart, testbed: TestBed, settings: dict[str, Any]) -> None:
    """Strictly: a field that it does not know would be dropped without a word otherwise."""
    versions = ("--api-versions", "policy/v1beta1")
    manifests = template(
        {**settings, "operator.podDisruptionBudget.enabled": False}, namespace=chart.namespace, words=versions
    )
    text = yaml.safe_dump_all(manifests)
    answer = testbed.kubectl("apply", "--dry-run=server", "--validate=true", "-f", "-", stdin=text)
    assert len(answer.stdout.splitlines()) == len(manifests)


def test_uninstalling_keeps_deployments_and_what_serves_them(chart: Chart, kube: Kube, served: Scene) -> None:
    """Comes last. Without an operator nothing changes any more, and nothing stops."""
    before = pods_of(kube, served)
    said = chart.helm("uninstall", "--wait", "--timeout", "60s")
    assert "CustomResourceDefinition" in said, "helm names what it keeps"
    gone = f"/apis/apps/v1/namespaces/{chart.namespace}/deployments/{OPERATOR}"
    until("the operator is gone", lambda: kube.get(gone) is None, seconds=60)
    assert pods_of(kube, served) == before
    assert served.complete(model="qwen3-32b", prompt="Still here", max_tokens=8).status_code == 200
