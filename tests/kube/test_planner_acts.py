"""The planner on a real API server: it sees what routers count, and roles and replicas follow; no request notices."""

from __future__ import annotations

import pytest

from tests.kube.client import MERGE, Kube
from tests.kube.kubelet import Kubelet
from tests.kube.planned import GPUS, Load, Watched, event_reasons, gpus, history, planned, seen
from tests.kube.pods import ProcessSettings
from tests.kube.scene import Scene

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600), pytest.mark.usefixtures("operator")]


@pytest.fixture
def processes(kubelet: Kubelet, namespace: str) -> str:
    """A namespace whose pods are processes that run as fast as the hardware they stand for."""
    kubelet.run_processes(namespace, ProcessSettings(speed=1))
    return namespace


def served(scene: Scene) -> Scene:
    return seen(scene.apply().until_ready(seconds=180))


@pytest.mark.parametrize("policy", ["AtOnce", "DrainFirst"])
def test_long_prompts_make_a_decode_engine_a_prefill_engine_and_no_stream_notices(
    kube: Kube, processes: str, policy: str
) -> None:
    scene = planned(kube, processes, gpuBudget=6, scaleDownWindowSeconds=300, roleChangePolicy=policy)
    scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 2
    served(scene)
    scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 1
    scene.apply().until_ready()
    uids = {pod["metadata"]["uid"] for pod in scene.pods()}
    with Watched(lambda: gpus(scene)) as held, Load(scene, rate=5.0, prompt=6000, answer=60) as load:
        scene.until_roles(prefill=2, decode=1, seconds=180)
    assert load.failed == []
    assert len(load.results) > 10
    assert {pod["metadata"]["uid"] for pod in scene.pods()} == uids, "an engine was started for it"
    assert held.most == 6
    assert "RoleChanged" in event_reasons(scene)
    assert ("RoleChangeStarted" in event_reasons(scene)) == (policy == "DrainFirst")
    assert "ScalingDecided" in event_reasons(scene)
    last = history(scene)[0]
    assert (last["before"], last["after"]) == (
        {"prefill": 1, "decode": 2, "both": 0},
        {"prefill": 2, "decode": 1, "both": 0},
    )
    assert "TTFT" in last["reason"]


def test_scale_down_while_streams_run_cuts_none(kube: Kube, processes: str) -> None:
    scene = planned(kube, processes)
    scene.pool(minReplicas=2)
    served(scene)
    scene.pool(minReplicas=1).apply()
    with Load(scene, rate=0.8, prompt=400, answer=900) as load:
        scene.until_roles(prefill=1, decode=1, seconds=180)
    assert load.failed == []
    assert len(load.results) > 5
    reasons = event_reasons(scene)
    assert "DrainStarted" in reasons
    assert "DrainDeadlineExceeded" not in reasons


def test_traffic_that_falls_to_zero_leaves_the_minimum_and_whole_numbers(kube: Kube, processes: str) -> None:
    scene = served(planned(kube, processes))
    with Load(scene, rate=6.0, prompt=6000, answer=20, seconds=25) as load:
        scene.until("it has grown", lambda: sum(scene.roles().values()) > 2, seconds=180)
    assert load.failed == []
    scene.until_roles(prefill=1, decode=1, seconds=180)
    scene.until_ready(seconds=180)
    assert scene.status["scaling"]["recommended"] == {"prefill": 1, "decode": 1, "both": 0}
    assert scene.condition("MetricsAvailable")["status"] == "True"


def test_a_deployment_that_sleeps_wakes_for_the_first_request_and_holds_it(kube: Kube, processes: str) -> None:
    scene = planned(kube, processes, scaleToZero={"policy": "WhenIdle", "idleSeconds": 60})
    served(scene)
    assert scene.complete().status_code == 200
    scene.until("it sleeps", lambda: scene.pods() == [], seconds=150)
    scene.until_condition("Available", "False", "ScaledToZero")
    answer = scene.complete()
    assert answer.status_code == 200, answer.text
    assert sum(scene.roles().values()) >= 1


def test_an_engine_that_never_comes_does_not_stop_the_loop_and_the_status_says_so(kube: Kube, processes: str) -> None:
    scene = planned(kube, processes)
    scene.manifest["spec"]["engine"]["startDeadlineSeconds"] = 30
    served(scene)
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "full"},
        "spec": {"hard": {"requests.nvidia.com/gpu": str(2 * GPUS)}},
    }
    kube.ok("POST", f"/api/v1/namespaces/{processes}/resourcequotas", quota)
    with Load(scene, rate=6.0, prompt=6000, answer=20) as load:
        scene.until("more is ordered", lambda: "Scaled" in event_reasons(scene), seconds=180)
        scene.until_condition("Progressing", "True", "QuotaExceeded", seconds=180)
        decided = len(history(scene))
        scene.until("it says what is late", lambda: "not ready by" in str(history(scene)).lower(), seconds=180)
        assert len(history(scene)) <= decided + 3
        assert scene.condition("MetricsAvailable")["status"] == "True"
        kube.delete(f"/api/v1/namespaces/{processes}/resourcequotas/full")
        scene.until("it has grown", lambda: sum(scene.roles().values()) > 2, seconds=180)
    assert load.failed == []


def test_replicas_edited_by_hand_are_put_back_and_it_says_so(kube: Kube, processes: str) -> None:
    scene = served(planned(kube, processes))
    scale(kube, scene, 4)
    scene.until("it says so", lambda: "ReplicasPutBack" in event_reasons(scene), seconds=180)
    scene.until("it is put back", lambda: len(scene.pods()) == 2, seconds=180)
    scene.until_ready(seconds=180)
    message = next(event["message"] for event in scene.events() if event["reason"] == "ReplicasPutBack")
    assert "was set to 4 engines by hand; the planner's number is 2" in message


def test_in_mode_recommend_nothing_is_done_and_replicas_are_the_users(kube: Kube, processes: str) -> None:
    scene = served(planned(kube, processes, mode="Recommend"))
    with Load(scene, rate=6.0, prompt=6000, answer=20, seconds=180) as load:
        scene.until("it recommends", lambda: "ScalingRecommended" in event_reasons(scene), seconds=180)
    assert load.failed == []
    assert sum(scene.roles().values()) == 2
    assert history(scene)[0]["reason"].startswith("Recommended, not done:")
    scale(kube, scene, 3)
    scene.until("it says so", lambda: "ReplicasAccepted" in event_reasons(scene), seconds=180)
    scene.until("they serve", lambda: sum(scene.roles().values()) == 3, seconds=180)
    scene.until_ready(seconds=180)


def scale(kube: Kube, scene: Scene, replicas: int) -> None:
    """What ``kubectl scale`` does."""
    (workload,) = [one for one in scene.children("Deployment") if "flexible" in one["metadata"]["name"]]
    path = f"/apis/apps/v1/namespaces/{scene.namespace}/deployments/{workload['metadata']['name']}/scale"
    kube.ok("PATCH", path, {"spec": {"replicas": replicas}}, content_type=MERGE)
