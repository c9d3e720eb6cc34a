"""From a clean cluster to a completion with helm, as docs/operations/helm.md says it: install, test, serve; then
upgrade, roll back and uninstall while the deployment goes on serving.

The test bed is this module's own, because the chart brings the CRD. The operator and the test pod run as processes with
the rights of the chart's ServiceAccount.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.documents import ROOT
from tests.helm.charts import CHART, run_helm, template
from tests.kube.client import Kube, connect, until
from tests.kube.cluster import HOW_TO_GET_ONE, api_server
from tests.kube.conftest import NODES, install_crd
from tests.kube.kubelet import Kubelet
from tests.kube.pods import ProcessSettings
from tests.kube.scene import Scene
from tests.kube.testbed import NEEDED, TestBed
from tests.programs import helm

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]

RELEASE, NAMESPACE, OPERATOR = "paceline", "paceline-system", "paceline-operator"
FOLLOWED = [page for page in ("docs/operations/helm.md", "README.md") if "helm install" in (ROOT / page).read_text()]
UPGRADE = ("--wait", "--timeout", "120s")


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestBed]:
    with api_server(tmp_path_factory.mktemp("helm")) as kubeconfig:
        if kubeconfig is None:
            pytest.skip(HOW_TO_GET_ONE)
        if not TestBed.is_one(kubeconfig):
            pytest.skip(NEEDED)
        with connect(kubeconfig) as kube:
            one = TestBed(kubeconfig.parent, kube)
            for node in NODES:
                one.add_node(node)
            yield one


@pytest.fixture(scope="module")
def node(bed: TestBed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    one = Kubelet(bed.kubeconfig, tmp_path_factory.mktemp("helm-pods"))
    one.run_processes(NAMESPACE)
    one.run_processes("default", ProcessSettings(speed=20))
    one.start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def served(bed: TestBed, node: Kubelet) -> Scene:
    """What the first block of the page leaves behind."""
    follow(bed, FOLLOWED[0])
    return Scene(bed.kube, "default", "quickstart")


def follow(bed: TestBed, page: str) -> str:
    """Run the page's first block that installs, line by line, as a person does; what it printed."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (block, *_) = [block for block in blocks if "helm install" in block]
    lines = [line.removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines() if line.startswith("$ ")]
    with tempfile.TemporaryDirectory() as home:
        programs = Path(home) / "bin"
        programs.mkdir()
        (programs / "helm").symlink_to(helm())
        (programs / "kubectl").symlink_to(bed._binary("kubectl"))
        environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": home, "KUBECONFIG": str(bed.kubeconfig)}
        done = subprocess.run(
            ["bash", "-euc", "\n".join(lines)],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert done.returncode == 0, f"{lines}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run(bed: TestBed, verb: str, *words: str | Path, check: bool = True) -> str:
    done = run_helm(verb, RELEASE, *words, "--namespace", NAMESPACE, kubeconfig=bed.kubeconfig, check=check)
    return done.stdout + done.stderr


def pods_of(scene: Scene) -> dict[str, str]:
    """Names and identities of the pods of a deployment."""
    found = scene.kube.pods(scene.namespace, f"paceline.dev/deployment={scene.name}")
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in found}


def answers(scene: Scene) -> bool:
    reply = scene.complete(model="qwen3-32b", prompt="Once upon a time", max_tokens=8)
    assert reply.status_code == 200, reply.text
    return True


def operator_args(kube: Kube) -> list[str]:
    deployment = kube.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{OPERATOR}")
    assert deployment is not None
    found: list[str] = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    return found


def test_following_the_page_ends_with_a_deployment_that_answers(served: Scene) -> None:
    assert served.condition("Ready")["status"] == "True"
    assert answers(served)
    assert served.roles().keys() == {"prefill", "decode"}


def test_the_release_says_what_to_do_next(bed: TestBed, served: Scene) -> None:
    words = ("get", "notes", RELEASE, "--namespace", NAMESPACE)
    notes = run_helm(*words, kubeconfig=bed.kubeconfig).stdout
    assert "helm test paceline" in notes
    manifest = re.search(r"<<'EOF'\n(.*?)EOF", notes, re.DOTALL)
    assert manifest is not None
    bed.kubectl("apply", "--dry-run=server", "-f", "-", stdin=manifest[1])


def test_the_release_tests_itself(bed: TestBed, served: Scene) -> None:
    assert "Phase:          Succeeded" in run(bed, "test", "--timeout", "100s")


def test_a_release_without_an_operator_fails_its_test(bed: TestBed, served: Scene) -> None:
    """Comes before the upgrade, which brings the operator back."""
    run(bed, "upgrade", CHART, *UPGRADE, "--set", "operator.replicas=0,test.timeoutSeconds=5")
    operators = "app.kubernetes.io/component=operator"
    until("no operator runs", lambda: not bed.kube.pods(NAMESPACE, operators), seconds=180)
    assert "Failed" in run(bed, "test", "--timeout", "60s", check=False)


def test_upgrade_and_rollback_leave_what_runs_untouched(bed: TestBed, served: Scene) -> None:
    before = pods_of(served)
    assert len(before) >= 3
    run(bed, "upgrade", CHART, *UPGRADE, "--set", "operator.workers=7,operator.debug=true")
    assert "7" in operator_args(bed.kube)
    run(bed, "test", "--timeout", "100s")
    assert pods_of(served) == before
    assert answers(served)
    run(bed, "rollback", "1", *UPGRADE)
    assert "7" not in operator_args(bed.kube)
    run(bed, "test", "--timeout", "100s")
    assert pods_of(served) == before
    assert answers(served)


@pytest.mark.parametrize("settings", [{}, {"bundled.prometheus.enabled": True, "bundled.grafana.enabled": True}])
def test_the_api_server_takes_every_object(bed: TestBed, served: Scene, settings: dict[str, Any]) -> None:
    """Strictly: a field that it does not know would be dropped without a word otherwise."""
    # The budget's version is one that this old API server lacks; install asks the server which it has.
    manifests = template({**settings, "operator.podDisruptionBudget.enabled": False})
    text = yaml.safe_dump_all(manifests)
    answer = bed.kubectl("apply", "--dry-run=server", "--validate=true", "-f", "-", stdin=text)
    assert len(answer.stdout.splitlines()) == len(manifests)


def test_where_the_cluster_knows_prometheus_kinds_an_upgrade_brings_monitors_and_rules(
    bed: TestBed, served: Scene
) -> None:
    """And the server keeps every field of them."""
    group = "/apis/monitoring.coreos.com/v1"
    for number, document in enumerate(yaml.safe_load_all((ROOT / "tests/kube/crds/monitoring.yaml").read_text())):
        file = bed.folder / f"monitoring-{number}.yaml"
        file.write_text(yaml.safe_dump(document))
        install_crd(bed.kube, file, f"{group}/{document['spec']['names']['plural']}")
    run(bed, "upgrade", CHART, *UPGRADE)
    words = ("--api-versions", "monitoring.coreos.com/v1/PodMonitor,monitoring.coreos.com/v1/PrometheusRule")
    rendered = [one for one in template(words=words) if one["apiVersion"] == "monitoring.coreos.com/v1"]
    assert [one["kind"] for one in rendered] == ["PodMonitor", "PrometheusRule"]
    for one in rendered:
        plural = f"{one['kind'].lower()}s"
        stored = bed.kube.get(f"{group}/namespaces/{NAMESPACE}/{plural}/{one['metadata']['name']}")
        assert stored is not None
        assert stored["spec"] == one["spec"]


def test_uninstalling_keeps_deployments_and_what_serves_them(bed: TestBed, served: Scene) -> None:
    """Comes last. Without an operator nothing changes any more, and nothing stops."""
    before = pods_of(served)
    assert "CustomResourceDefinition" in run(bed, "uninstall", "--wait", "--timeout", "60s"), "helm names what it keeps"
    gone = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{OPERATOR}"
    until("the operator is gone", lambda: bed.kube.get(gone) is None, seconds=180)
    assert pods_of(served) == before
    assert answers(served)
