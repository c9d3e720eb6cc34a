"""The planner on a real API server: it sees what routers count, and roles and replicas follow; no request notices."""

from __future__ import annotations

import pytest

from tests.kube.client import Kube
from tests.kube.kubelet import Kubelet
from tests.kube.planned import Load, Watched, event_reasons, gpus, history, planned, seen
from tests.kube.pods import ProcessSettings
from tests.kube.scene import Scene

pytestmark = [pytest.mark.kube, pytest.mark.timeout(400), pytest.mark.usefixtures("operator")]


@pytest.fixture
def processes(kubelet: Kubelet, namespace: str) -> str:
    """A namespace whose pods are processes that run as fast as the hardware they stand for."""
    kubelet.run_processes(namespace, ProcessSettings(speed=1))
    return namespace


def served(scene: Scene) -> Scene:
    return seen(scene.apply().until_ready(seconds=120))


def test_long_prompts_make_a_decode_engine_a_prefill_engine_and_no_stream_notices(kube: Kube, processes: str) -> None:
    scene = planned(kube, processes, gpuBudget=6, scaleDownWindowSeconds=300)
    scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 2
    served(scene)
    scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 1
    scene.apply().until_ready()
    uids = {pod["metadata"]["uid"] for pod in scene.pods()}
    with Watched(lambda: gpus(scene)) as held, Load(scene, rate=5.0, prompt=6000, answer=60) as load:
        scene.until_roles(prefill=2, decode=1, seconds=90)
    assert load.failed == []
    assert len(load.results) > 10
    assert {pod["metadata"]["uid"] for pod in scene.pods()} == uids, "an engine was started for it"
    assert held.most == 6
    assert "RoleChanged" in event_reasons(scene)
    assert "ScalingDecided" in event_reasons(scene)
    last = history(scene)[0]
    assert (last["before"], last["after"]) == (
        {"prefill": 1, "decode": 2, "both": 0},
        {"prefill": 2, "decode": 1, "both": 0},
    )
    assert "TTFT" in last["reason"]
