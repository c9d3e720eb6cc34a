"""Fixtures of the tests against a real API server: the server, clients, the CRD, a kubelet, namespaces, operators."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from paceline.api.labels import GROUP, PLURAL, VERSION
from tests.api.documents import ROOT
from tests.kube.client import Kube, connect
from tests.kube.cluster import HOW_TO_GET_ONE, api_server
from tests.kube.kill_anywhere import install_rights
from tests.kube.kubelet import Kubelet
from tests.kube.operators import Operator, running
from tests.kube.scene import Scene
from tests.kube.testbed import NEEDED, TestBed

CRD_SECONDS = 180
CONSECUTIVE = 5
"""Good answers in a row after which a new kind counts as served: before, answers come and go."""
OPERATORS = ("operator", "proxied")
"""Fixtures."""
LOG_LINES = 60
NODES = ("gpu-a", "gpu-b")


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig with all rights."""
    with api_server(tmp_path_factory.mktemp("kube")) as path:
        if path is None:
            pytest.skip(HOW_TO_GET_ONE)
        yield path


@pytest.fixture(scope="session")
def kube(kubeconfig: Path) -> Iterator[Kube]:
    """A client of the API server, with the CRD installed and served."""
    with connect(kubeconfig) as found:
        install_crd(found, ROOT / "crds" / f"{GROUP}_{PLURAL}.yaml", f"/apis/{GROUP}/{VERSION}/{PLURAL}")
        yield found


@pytest.fixture(scope="session")
def testbed(kubeconfig: Path, kube: Kube) -> TestBed:
    """The test bed with fake GPU nodes. No other API server has the controllers that make pods."""
    if not TestBed.is_one(kubeconfig):
        pytest.skip(NEEDED)
    bed = TestBed(kubeconfig.parent, kube)
    for node in NODES:
        bed.add_node(node)
    return bed


@pytest.fixture(scope="session")
def kubelet(testbed: TestBed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """The kubelet of all nodes. Logs of pods that are processes are in a folder called ``pods``."""
    one = Kubelet(testbed.kubeconfig, tmp_path_factory.mktemp("pods"))
    one.start()
    yield one
    one.stop()


@pytest.fixture
def namespaces(kube: Kube) -> Iterator[Callable[[], str]]:
    """Makes namespaces of the test's own."""
    made: list[str] = []

    def make() -> str:
        name = f"test-{uuid4().hex[:8]}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        status, answer = kube.request("POST", "/api/v1/namespaces", body)
        assert status == 201, answer
        made.append(name)
        return name

    yield make
    for name in made:
        kube.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def namespace(namespaces: Callable[[], str]) -> str:
    """A namespace of the test's own."""
    return namespaces()


def install_crd(kube: Kube, file: Path, served_at: str) -> None:
    """Install a CRD and wait until the server answers for it."""
    crd = yaml.safe_load(file.read_text())
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    status, answer = kube.request("POST", path, crd)
    if status == 409:
        _, current = kube.request("GET", f"{path}/{crd['metadata']['name']}")
        crd["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"]
        status, answer = kube.request("PUT", f"{path}/{crd['metadata']['name']}", crd)
    assert status in {200, 201}, answer
    deadline = time.monotonic() + CRD_SECONDS
    served = 0
    while served < CONSECUTIVE:
        status, answer = kube.request("GET", served_at)
        served = served + 1 if status == 200 else 0
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)


@pytest.fixture(autouse=True)
def told_on_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """What operators logged during a test is shown where it fails."""
    used = [request.getfixturevalue(name) for name in OPERATORS if name in request.fixturenames]
    before = [one.log.stat().st_size for one in used]
    yield
    for one, size in zip(used, before, strict=True):
        with one.log.open(errors="replace") as log:
            log.seek(size)
            print(f"The operator's log:\n{''.join(log.readlines()[-LOG_LINES:])}")


@pytest.fixture(scope="session")
def operator_account(testbed: TestBed) -> Path:
    """A kubeconfig with the rights that the install manifest gives the operator. Its Deployment is left out."""
    return install_rights(testbed)


@pytest.fixture(scope="module")
def operator(operator_account: Path, kubelet: Kubelet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator for all namespaces, shared by the tests of a module."""
    with running(operator_account, tmp_path_factory.mktemp("operator") / "operator.log") as one:
        yield one


@pytest.fixture
def scene(kube: Kube, kubelet: Kubelet, namespace: str) -> Scene:
    """A deployment that nobody has applied yet."""
    return Scene(kube, namespace)
