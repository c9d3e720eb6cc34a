"""Engines change, come and go while people use them. Pods are processes: emulated engines behind a real router."""

from __future__ import annotations

import os
import threading
import time

import httpx
import pytest

from paceline.api import labels
from tests.kube.client import Kube
from tests.kube.kubelet import Kubelet
from tests.kube.pods import ProcessSettings
from tests.kube.scene import Scene
from tests.kube.testbed import TestBed
from tests.kube.traffic import PodHistory, Traffic

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600), pytest.mark.usefixtures("operator")]

AWAY_SECONDS = float(os.environ.get("PACELINE_AWAY_SECONDS", "20"))
"""How long the API server answers nobody: longer than a Lease of the operator. 300 is the long form."""
DRAIN_ORDER = ["drain", "shut", "deleted"]


@pytest.fixture
def served(kube: Kube, kubelet: Kubelet, namespace: str) -> Scene:
    """A deployment that answers: one prefill and one decode engine, room for two more."""
    kubelet.run_processes(namespace, ProcessSettings(speed=20))
    scene = Scene(kube, namespace).pool(maxReplicas=3)
    scene.manifest["spec"]["engine"]["drainSeconds"] = 60
    return scene


def uids(scene: Scene) -> set[str]:
    return {pod["metadata"]["uid"] for pod in scene.pods()}


def revisions(scene: Scene) -> set[str]:
    return {pod["metadata"]["labels"][labels.REVISION] for pod in scene.pods()}


def test_engines_change_roles_while_streams_run_and_no_stream_notices(served: Scene) -> None:
    served.manifest["spec"]["pools"]["prefill"]["minReplicas"] = 2
    served.apply().until_ready(seconds=180)
    before = uids(served)
    with Traffic(served) as traffic:
        traffic.wait_for_more(10)
        for prefill, decode in ((1, 2), (2, 1), (1, 2)):
            served.manifest["spec"]["pools"]["prefill"]["minReplicas"] = prefill
            served.manifest["spec"]["pools"]["decode"]["minReplicas"] = decode
            served.apply()
            served.until_roles(prefill=prefill, decode=decode)
            traffic.wait_for_more(10)
    assert traffic.outcome.failed == []
    assert uids(served) == before


@pytest.mark.timeout(600 + AWAY_SECONDS)
def test_an_api_server_that_answers_nobody_for_long_is_noticed_by_no_stream(served: Scene, testbed: TestBed) -> None:
    served.apply().until_ready(seconds=180)
    with Traffic(served) as traffic:
        traffic.wait_for_more(10)
        with testbed.away("apiserver"):
            end = time.monotonic() + AWAY_SECONDS
            while time.monotonic() < end:
                traffic.wait_for_more(10)
        testbed.until_steady(served.path)
        served.manifest["spec"]["pools"]["decode"]["minReplicas"] = 2
        served.apply()
        # After minutes the node controller has taken the pods for unready, and the engine is started beside all else.
        served.until_roles(prefill=1, decode=2, seconds=180)
        traffic.wait_for_more(10)
    assert traffic.outcome.failed == []


def test_a_rolling_update_replaces_every_engine_and_no_request_fails(served: Scene) -> None:
    served.pool(minReplicas=2).apply().until_ready(seconds=180)
    before, old = uids(served), revisions(served)
    with Traffic(served) as traffic, PodHistory(served) as history:
        traffic.wait_for_more(10)
        served.change("spec.engine.image", "paceline/worker:next").until_ready(seconds=240)
        traffic.wait_for_more(10)
    assert traffic.outcome.failed == []
    assert not uids(served) & before
    assert not revisions(served) & old
    assert set(map(tuple, history.gone().values())) == {tuple(DRAIN_ORDER)}
    assert served.roles() == {"prefill": 2, "decode": 2}


def test_a_revision_that_does_not_get_ready_stops_the_roll_out_and_going_back_mends_it(served: Scene) -> None:
    served.manifest["spec"]["engine"]["startDeadlineSeconds"] = 15
    served.apply().until_ready(seconds=180)
    before = uids(served)
    with Traffic(served) as traffic:
        served.set("spec.engine.env", [{"name": "PACELINE_ENGINE_BACKEND", "value": "no-such-backend"}])
        served.apply()
        told = served.until_condition("Progressing", "False", "RolloutStalled", seconds=180)
        assert told["message"]
        traffic.wait_for_more(10)
        assert served.condition("Available")["status"] == "True"
        assert before & uids(served)
        assert any(event["reason"] == "RolloutStalled" for event in served.events())

        del served.manifest["spec"]["engine"]["env"]
        served.apply().until_ready(seconds=180)
        traffic.wait_for_more(5)
    assert traffic.outcome.failed == []
    served.until("nothing is left of the bad revision", lambda: len(served.names()) == 2)


def test_fewer_engines_means_that_one_is_drained_and_exactly_that_one_goes(served: Scene) -> None:
    served.manifest["spec"]["pools"]["decode"]["minReplicas"] = 3
    served.apply().until_ready(seconds=180)
    with Traffic(served, streams=6) as traffic, PodHistory(served) as history:
        traffic.wait_for_more(10)
        served.manifest["spec"]["pools"]["decode"]["minReplicas"] = 1
        served.apply()
        served.until("two engines are left", lambda: len(served.names()) == 2, seconds=180)
        traffic.wait_for_more(10)
    assert traffic.outcome.failed == []
    assert list(history.gone().values()) == [DRAIN_ORDER] * 2
    served.until_ready()


def test_a_drain_waits_for_the_stream_in_flight_and_not_longer_than_its_deadline(
    kube: Kube, kubelet: Kubelet, namespace: str
) -> None:
    kubelet.run_processes(namespace, ProcessSettings(speed=1))
    scene = Scene(kube, namespace).pool(maxReplicas=3)
    scene.manifest["spec"]["engine"]["drainSeconds"] = 4
    scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 2
    scene.apply().until_ready(seconds=180)
    url, ended = f"http://{scene.router()}:8000/v1/completions", threading.Event()

    def long_streams() -> None:
        body = scene.body(max_tokens=4000, stream=True, n=1)
        with (
            httpx.Client(timeout=300, trust_env=False) as client,
            client.stream("POST", url, json=body) as one,
            client.stream("POST", url, json=body) as other,
        ):
            for _ in one.iter_lines():
                if ended.is_set():
                    return
            del other

    thread = threading.Thread(target=long_streams, daemon=True)
    thread.start()
    scene.until("a stream runs", lambda: _in_flight(scene) > 0)
    with PodHistory(scene) as history:
        scene.manifest["spec"]["pools"]["decode"]["minReplicas"] = 1
        scene.apply()
        scene.until("two engines are left", lambda: len(scene.names()) == 2, seconds=180)
    ended.set()
    assert list(history.gone().values()) == [DRAIN_ORDER]
    (told,) = [event for event in scene.events() if event["reason"] == "DrainDeadlineExceeded"]
    assert next(iter(history.gone())) in told["message"]


def _in_flight(scene: Scene) -> int:
    fleet = httpx.get(f"http://{scene.router()}:8080/fleet", timeout=5, trust_env=False).json()
    return sum(engine["running"] for engine in fleet["engines"])


def test_an_engine_whose_process_dies_is_out_at_once_and_comes_back(served: Scene, kubelet: Kubelet) -> None:
    served.manifest["spec"]["pools"]["decode"]["minReplicas"] = 2
    served.apply().until_ready(seconds=180)
    victim = min(pod["metadata"]["name"] for pod in served.pods() if pod["metadata"]["labels"][labels.ROLE] == "decode")
    kubelet.kill(served.namespace, victim)
    served.until("a completion", lambda: served.complete().status_code == 200)
    served.until_condition("Ready", "True")
    served.until_roles(prefill=1, decode=2)
    assert victim in served.names()


def test_a_deleted_deployment_takes_its_processes_along(served: Scene) -> None:
    served.apply().until_ready(seconds=180)
    assert served.complete().status_code == 200
    url = f"http://{served.router()}:8000/v1/models"
    served.delete()
    served.until_gone(seconds=180)
    with pytest.raises(httpx.TransportError):
        httpx.get(url, timeout=2, trust_env=False)
