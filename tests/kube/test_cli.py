"""The command line on a real API server: what status says of it, and what becomes of drains and flips under load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from paceline.api import labels
from paceline.cli import run
from tests.kube.client import Kube
from tests.kube.kubelet import Kubelet
from tests.kube.planned import planned
from tests.kube.pods import ProcessSettings
from tests.kube.scene import Scene
from tests.kube.traffic import PodHistory, Traffic

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600), pytest.mark.usefixtures("operator")]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def paceline(kubeconfig: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command against the API server: exit code, standard output, standard error."""
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


def pod_of(scene: Scene, role: str) -> str:
    """An engine of that role."""
    return min(pod["metadata"]["name"] for pod in scene.pods() if pod["metadata"]["labels"].get(labels.ROLE) == role)


def test_status_shows_a_ready_deployment_with_its_engines(scene: Scene, paceline: Command) -> None:
    scene.apply().until_ready()
    code, out, err = paceline("status", "small", "-n", scene.namespace)
    assert (code, err) == (0, "")
    assert out.startswith(f"{scene.namespace}/small  Qwen/Qwen3-32B  ready for ")
    assert not any(line.startswith(("!", "note:")) for line in out.splitlines())
    found = json.loads(paceline("status", "small", "-n", scene.namespace, "-o", "json")[1])
    assert {one["pod"]: one["role"] for one in found["engines"]} == {
        pod["metadata"]["name"]: pod["metadata"]["labels"][labels.ROLE] for pod in scene.pods()
    }
    assert {one["state"] for one in (*found["engines"], *found["routers"])} == {"ready"}
    assert found["events"]
    assert paceline("status", "-n", scene.namespace)[0] == 0


def test_status_says_of_an_engine_without_a_node_what_is_missing_and_where_to_look(
    scene: Scene, paceline: Command
) -> None:
    scene.pool(accelerator={"count": 1, "product": f"GPU-{scene.namespace}"}).apply()
    scene.until_condition("Ready", "False", "Unschedulable")
    code, out, _ = paceline("status", "small", "-n", scene.namespace)
    assert code == 1
    lines = out.splitlines()
    assert "NOT READY" in lines[0]
    assert lines[0].endswith(": Unschedulable")
    commands = [line for line in lines if line.startswith("  $ kubectl describe pod")]
    assert commands
    assert commands[0].split()[-1] in scene.names()
    found = json.loads(paceline("status", "small", "-n", scene.namespace, "-o", "json")[1])
    assert {one["state"] for one in found["engines"]} == {"stuck"}
    assert all(one["waitsFor"].startswith("Unschedulable: 0/") for one in found["engines"])


@pytest.mark.parametrize("who", ["kubeconfig", "operator_account"], ids=["certificate", "token"])
def test_check_finds_the_operator_with_whatever_credentials_a_kubeconfig_holds(
    paceline: Command, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, who: str
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(request.getfixturevalue(who)))
    code, out, err = paceline("check", "--timeout-seconds", "30")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "modeldeployments.paceline.dev is served"
    assert out.splitlines()[1].endswith(" leads")
    assert paceline("status", "-A")[0] in {0, 1}


def test_a_drained_engine_goes_in_the_usual_order_under_load_and_no_request_is_lost(
    kube: Kube, kubelet: Kubelet, namespace: str, paceline: Command
) -> None:
    kubelet.run_processes(namespace, ProcessSettings(speed=20))
    scene = Scene(kube, namespace).pool(minReplicas=2, maxReplicas=3)
    scene.manifest["spec"]["engine"]["drainSeconds"] = 60
    scene.apply().until_ready(seconds=180)
    victim = pod_of(scene, "decode")
    with Traffic(scene) as traffic, PodHistory(scene) as history:
        traffic.wait_for_more(10)
        code, out, err = paceline("drain", victim, "-n", namespace)
        assert (code, err) == (0, "")
        traffic.wait_for_more(10)
        scene.until_ready(seconds=180)
        traffic.wait_for_more(10)
    assert traffic.outcome.failed == []
    assert out.splitlines()[-1] == f"{victim}: gone; its workload makes another one."
    assert list(map(tuple, history.gone().values())) == [("drain", "shut", "deleted")]
    assert victim not in scene.names()
    assert scene.roles() == {"prefill": 2, "decode": 2}


def test_the_only_engine_that_generates_tokens_is_not_drained(scene: Scene, paceline: Command) -> None:
    scene.apply().until_ready()
    code, _, err = paceline("drain", pod_of(scene, "decode"), "-n", scene.namespace)
    assert code == 1
    assert "is the only engine that generates tokens" in err
    assert all(labels.DRAIN not in pod["metadata"].get("annotations", {}) for pod in scene.pods())


@pytest.mark.parametrize("policy", ["AtOnce", "DrainFirst"])
def test_a_flip_changes_the_role_of_that_very_engine_under_load_and_it_stays_so(
    kube: Kube, kubelet: Kubelet, namespace: str, paceline: Command, policy: str
) -> None:
    kubelet.run_processes(namespace, ProcessSettings(speed=20))
    scene = planned(kube, namespace, mode="Recommend", roleChangePolicy=policy)
    scene.apply().until_ready(seconds=180)
    decode = pod_of(scene, "decode")
    code, _, err = paceline("flip", decode, "--to", "prefill", "-n", namespace)
    assert code == 1
    assert "0 decode engines would be left" in err
    scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 2
    scene.apply().until_roles(prefill=1, decode=2, seconds=180)
    scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 1
    scene.apply().until_ready(seconds=180)
    before, chosen = scene.names(), pod_of(scene, "decode")
    with Traffic(scene) as traffic:
        traffic.wait_for_more(10)
        code, out, err = paceline("flip", chosen, "--to", "prefill", "-n", namespace)
        assert (code, err) == (0, "")
        assert out.splitlines()[-1] == f"{chosen}: serves prefill."
        traffic.wait_for_more(20)
    assert traffic.outcome.failed == []
    assert scene.roles() == {"prefill": 2, "decode": 1}
    assert scene.names() == before
    scene.until_ready(seconds=180)
    assert f"{chosen} serves prefill now, decode before." in {one["message"] for one in scene.events()}


def test_a_flip_that_the_spec_would_undo_is_refused(scene: Scene, paceline: Command) -> None:
    scene.apply().until_ready()
    pod = pod_of(scene, "decode")
    code, _, err = paceline("flip", pod, "--to", "prefill", "-n", scene.namespace)
    assert code == 1
    assert "scaling.mode is Off" in err
