"""What goes wrong in clusters: no room, no image, no rights, a server that is away. Each has a word in the status, and
each passes when its cause does.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paceline.api import labels
from paceline.policy.resources import install
from tests.helm.charts import NAME
from tests.kube.client import MERGE, Kube, until
from tests.kube.kubelet import Kubelet
from tests.kube.operators import Operator, running
from tests.kube.proxy import Ask, Expire, Proxy, Refuse
from tests.kube.scene import Scene
from tests.kube.testbed import TestBed

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]


@pytest.fixture(scope="class")
def operator(operator_account: Path, kubelet: Kubelet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator for all namespaces. It ends with its class: those behind a proxy are to act alone."""
    with running(operator_account, tmp_path_factory.mktemp("operator") / "operator.log") as one:
        yield one


class TestPods:
    pytestmark = pytest.mark.usefixtures("operator")

    def test_engines_for_which_no_node_has_room_are_told_and_start_when_there_is(
        self, scene: Scene, testbed: TestBed
    ) -> None:
        product = f"GPU-{scene.namespace}"
        scene.pool(accelerator={"count": 1, "product": product}).apply()
        told = scene.until_condition("Ready", "False", "Unschedulable")
        assert "0/" in told["message"]
        assert scene.condition("Available")["status"] == "False"
        testbed.add_node(f"node-{scene.namespace}", product=product)
        scene.until_ready()

    def test_an_image_that_can_not_be_pulled_is_told_with_its_name(self, scene: Scene) -> None:
        scene.set("spec.engine.image", "nowhere/engine:1")
        scene.set("spec.engine.podTemplate", {"metadata": {"annotations": {"testbed/pull": "fail"}}}).apply()
        told = scene.until_condition("Ready", "False", "ImagePullFailed")
        assert "image" in told["message"].lower()

    def test_an_engine_that_crashes_over_and_over_is_told(self, scene: Scene) -> None:
        scene.set("spec.engine.podTemplate", {"metadata": {"annotations": {"testbed/fail": "true"}}}).apply()
        scene.until_condition("Ready", "False", "Crashing")

    def test_an_engine_that_does_not_get_ready_in_time_is_told(self, scene: Scene) -> None:
        scene.set("spec.engine.startDeadlineSeconds", 3)
        scene.set("spec.engine.podTemplate", {"metadata": {"annotations": {"testbed/hold": "true"}}}).apply()
        scene.until_condition("Ready", "False", "StartDeadlineExceeded")
        for pod in scene.pods():
            scene.patch_pod(pod["metadata"]["name"], {"metadata": {"annotations": {"testbed/hold": None}}})
        scene.until_ready()

    def test_pods_that_a_quota_refuses_are_told_and_made_when_it_allows_them(self, scene: Scene, kube: Kube) -> None:
        quotas = f"/api/v1/namespaces/{scene.namespace}/resourcequotas"
        quota = {
            "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"},
            "spec": {"hard": {"requests.nvidia.com/gpu": "1"}},
        }  # fmt: skip
        kube.ok("POST", quotas, quota)
        until("the quota is in force", lambda: (kube.get(f"{quotas}/few") or {})["status"].get("hard"))
        scene.apply()
        told = scene.until_condition("Ready", "False", "QuotaExceeded")
        assert "few" in told["message"]
        kube.ok("PATCH", f"{quotas}/few", {"spec": {"hard": {"requests.nvidia.com/gpu": "9"}}}, content_type=MERGE)
        # The ReplicaSet controller tries again with growing pauses.
        scene.until_ready(seconds=180)

    def test_never_more_engines_than_the_budget_allows(self, scene: Scene) -> None:
        scene.pool(maxReplicas=4, minReplicas=2).set("spec.scaling.gpuBudget", 4).apply().until_ready()
        scene.manifest["spec"]["scaling"]["gpuBudget"] = 3
        scene.pool(minReplicas=1)
        scene.apply().until_ready()
        scene.until("three engines at most", lambda: len(scene.names()) <= 3)


@pytest.fixture
def proxy(operator_account: Path) -> Iterator[Proxy]:
    one = Proxy(operator_account)
    one.start()
    yield one
    one.stop()


@pytest.fixture
def proxied(
    proxy: Proxy, operator_account: Path, kubelet: Kubelet, tmp_path: Path, namespace: str
) -> Iterator[Operator]:
    """An operator for one namespace that reaches the API server through the proxy."""
    kubeconfig = proxy.kubeconfig(operator_account, tmp_path)
    flags = ("--namespace", namespace, "--lease-namespace", "paceline-system")
    with running(kubeconfig, tmp_path / "operator.log", *flags) as one:
        yield one


class TestTheApiServer:
    def test_conflicts_are_tried_again(self, scene: Scene, proxy: Proxy, proxied: Operator) -> None:
        seen: set[tuple[str, str]] = set()

        def first_time(ask: Ask) -> Refuse | None:
            if not ask.writes or "/leases/" in ask.path or (ask.method, ask.path) in seen:
                return None
            seen.add((ask.method, ask.path))
            return Refuse(409, "Conflict")

        proxy.spoil = first_time
        scene.apply().until_ready()
        assert proxy.spoiled >= 8

    def test_a_throttling_server_is_given_time(self, scene: Scene, proxy: Proxy, proxied: Operator) -> None:
        dice = random.Random(1)

        def throttle(ask: Ask) -> Refuse | None:
            if ask.watch or dice.random() > 0.4:
                return None
            return Refuse(429, "TooManyRequests", (("Retry-After", "1"),))

        proxy.spoil = throttle
        scene.apply().until_ready(seconds=180)
        assert proxy.spoiled >= 5

    def test_a_server_that_fails_every_third_time_is_asked_again(
        self, scene: Scene, proxy: Proxy, proxied: Operator
    ) -> None:
        dice = random.Random(2)
        proxy.spoil = lambda ask: Refuse(503, "ServiceUnavailable") if dice.random() < 0.33 and not ask.watch else None
        scene.apply().until_ready(seconds=180)
        scene.delete()
        proxy.spoil = lambda ask: None
        scene.until_gone()

    def test_expired_and_broken_watches_miss_nothing(self, scene: Scene, proxy: Proxy, proxied: Operator) -> None:
        scene.apply().until_ready()
        proxy.spoil = lambda ask: Expire() if ask.watch else None
        proxy.break_watches()
        until("a watch that has expired", lambda: proxy.spoiled >= 3)
        victim = min(scene.names())
        scene.delete_pod(victim, grace_seconds=0)
        scene.change("spec.routing.replicas", 2)
        proxy.spoil = lambda ask: None
        scene.until_ready()
        scene.until_roles(prefill=1, decode=1)

    @pytest.mark.parametrize(
        ("method", "path", "said"),
        [
            ("PATCH", "/services/", "services"),
            ("PATCH", "/deployments/", "deployments"),
            ("PATCH", "/networkpolicies/", "networkpolicies"),
        ],
    )
    def test_a_forbidden_verb_is_told_with_verb_and_resource(
        self, scene: Scene, proxy: Proxy, proxied: Operator, method: str, path: str, said: str
    ) -> None:
        proxy.spoil = lambda ask: Refuse(403, "Forbidden") if ask.method == method and path in ask.path else None
        scene.apply()
        told = scene.until_condition("Ready", "False", "Forbidden")
        assert said in told["message"]
        proxy.spoil = lambda ask: None
        scene.until_ready(seconds=180)

    @pytest.mark.parametrize(("verbs", "serves"), [(["get", "list", "watch"], True), ([], False)])
    def test_rights_that_are_really_missing_are_told_and_given_back(
        self, scene: Scene, kube: Kube, proxied: Operator, verbs: list[str], serves: bool
    ) -> None:
        path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{NAME}"
        whole: list[Any] = install.cluster_rules()
        left = [rule | {"verbs": verbs} if "networkpolicies" in rule["resources"] else rule for rule in whole]
        kube.ok("PATCH", path, {"rules": [rule for rule in left if rule["verbs"]]}, content_type=MERGE)
        try:
            scene.apply()
            told = scene.until_condition("Ready", "False", "Forbidden")
            assert "networkpolicies" in told["message"]
            if serves:  # What it may do is done. One that can't see a kind of child doesn't act on what it can't see.
                scene.until_roles(prefill=1, decode=1)
        finally:
            kube.ok("PATCH", path, {"rules": whole}, content_type=MERGE)
        scene.until_ready(seconds=180)

    def test_a_server_that_does_not_name_our_kind_for_a_while_is_survived(
        self, scene: Scene, proxy: Proxy, proxied: Operator
    ) -> None:
        """As one does for some seconds after its start, when custom resources are not yet read."""
        scene.apply().until_ready()
        ours = f"/apis/{labels.GROUP}/"
        proxy.spoil = lambda ask: Refuse(404, "NotFound") if ask.path.startswith(ours) else None
        proxy.break_watches()
        until("kopf has asked what there is", lambda: "Unresolved resources" in proxied.log.read_text())
        listed = threading.Event()

        def heed_lists(ask: Ask) -> None:
            if ask.path.endswith(labels.PLURAL) and not ask.watch:
                listed.set()

        proxy.spoil = heed_lists
        # The operator lists everything when kopf gave up. What changes after that only kopf can tell of.
        assert listed.wait(60)
        time.sleep(2)
        # Far below the time after which everything is looked at anyway.
        scene.change("spec.routing.replicas", 2).until_ready(seconds=180)

    def test_a_restart_of_the_api_server_is_survived(self, scene: Scene, testbed: TestBed, proxied: Operator) -> None:
        scene.apply().until_ready()
        testbed.restart("apiserver")
        testbed.until_steady(scene.path)
        scene.change("spec.routing.replicas", 2).until_ready(seconds=180)
        assert proxied.process.poll() is None
