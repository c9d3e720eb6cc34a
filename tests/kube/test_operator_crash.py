"""Operators that are killed, frozen, doubled or replaced: at most one acts, and the next mends what one left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.api import labels
from tests.kube.client import APPLY, Kube, until
from tests.kube.kill_anywhere import allow_lease, run_seed
from tests.kube.kubelet import Kubelet
from tests.kube.operators import running, start
from tests.kube.scene import Scene
from tests.kube.testbed import TestBed

pytestmark = [pytest.mark.kube, pytest.mark.timeout(600)]

KEPT = {"selector", "ports", "replicas", "template"}


@pytest.mark.parametrize("seed", range(5))
def test_an_operator_that_is_killed_between_any_two_writes_leaves_nothing_that_the_next_can_not_mend(
    kube: Kube, kubelet: Kubelet, operator_account: Path, tmp_path: Path, seed: int
) -> None:
    report = run_seed(kube, operator_account, tmp_path, seed)
    assert report.crashes


@pytest.fixture(autouse=True)
def lease(kube: Kube, testbed: TestBed, namespace: str) -> None:
    """The operators of a test agree in its own namespace, so that no other test's lease is in their way."""
    allow_lease(kube, namespace)


def flags(namespace: str, lease_seconds: int = 4) -> tuple[str, ...]:
    return "--namespace", namespace, "--lease-namespace", namespace, "--lease-seconds", str(lease_seconds)


def test_of_two_operators_one_acts_and_the_other_takes_over_when_it_ends(
    scene: Scene, operator_account: Path, tmp_path: Path
) -> None:
    with running(operator_account, tmp_path / "one.log", *flags(scene.namespace), identity="one") as one:
        other = start(operator_account, tmp_path / "other.log", *flags(scene.namespace), identity="other")
        try:
            until("the other runs too", lambda: other.runs, seconds=180)
            scene.apply().until_ready()
            assert (one.leads, other.leads) == (True, False)
            assert (one.writes() > 0, other.writes()) == (True, 0)
            one.stop()
            until("the other leads", lambda: other.leads, seconds=30)
            scene.change("spec.routing.replicas", 2).until_ready()
            assert other.writes() > 0
        finally:
            other.stop()


def test_a_leader_that_was_frozen_does_not_write_when_it_wakes_up(
    scene: Scene, operator_account: Path, tmp_path: Path
) -> None:
    with running(operator_account, tmp_path / "one.log", *flags(scene.namespace), identity="one") as one:
        other = start(operator_account, tmp_path / "other.log", *flags(scene.namespace), identity="other")
        try:
            scene.apply().until_ready()
            before = one.writes()
            one.pause()
            scene.change("spec.routing.replicas", 2)
            until("the other leads", lambda: other.leads, seconds=180)
            scene.until_ready()
            scene.change("spec.engine.image", "paceline/worker:next")
            # In the middle of the roll-out the first one wakes up and believes that no time has passed.
            one.resume()
            until("it knows", lambda: not one.leads, seconds=30)
            scene.until_ready(seconds=180)
            assert one.writes() == before
        finally:
            other.stop()


def test_an_operator_that_is_asked_to_end_gives_the_lease_back(
    scene: Scene, operator_account: Path, tmp_path: Path
) -> None:
    with running(operator_account, tmp_path / "one.log", *flags(scene.namespace, 60), identity="one") as one:
        assert one.stop() == 0
    # With a lease of a minute a successor would otherwise wait for most of it.
    with running(operator_account, tmp_path / "two.log", *flags(scene.namespace, 60), identity="two"):
        scene.apply().until_ready(seconds=40)


def test_what_was_deleted_while_no_operator_ran_is_gone_and_what_was_made_is_there(
    kube: Kube, kubelet: Kubelet, operator_account: Path, tmp_path: Path, namespace: str
) -> None:
    first, second = Scene(kube, namespace, "first"), Scene(kube, namespace, "second")
    with running(operator_account, tmp_path / "one.log", *flags(namespace)):
        first.apply().until_ready()
    first.delete()
    second.apply()
    with running(operator_account, tmp_path / "two.log", *flags(namespace)):
        second.until_ready()
        first.until_gone()


def test_an_operator_meets_the_children_of_a_version_before_it(
    scene: Scene, operator_account: Path, tmp_path: Path
) -> None:
    with running(operator_account, tmp_path / "one.log", *flags(scene.namespace)):
        scene.apply().until_ready()
    before = {pod["metadata"]["uid"] for pod in scene.pods()}
    # As an older version would have left them: another hash of what was applied, a field that is not set any more, and
    # one that has another value.
    for path in ("/api/v1/namespaces/{}/services/small-router", "/apis/apps/v1/namespaces/{}/deployments/small-router"):
        make_old(scene.kube, path.format(scene.namespace))
    with running(operator_account, tmp_path / "two.log", *flags(scene.namespace)):
        scene.until(
            "the old fields are gone",
            lambda: (
                not any(
                    "old.paceline.dev/field" in child["metadata"].get("labels", {})
                    for kind in ("Service", "Deployment")
                    for child in scene.children(kind)
                )
            ),
        )
        scene.until_ready()
    assert {pod["metadata"]["uid"] for pod in scene.pods()} == before


def make_old(kube: Kube, path: str) -> None:
    child = kube.get(path)
    assert child is not None
    old = {
        "apiVersion": child["apiVersion"],
        "kind": child["kind"],
        "metadata": {
            "name": child["metadata"]["name"],
            "labels": {**child["metadata"]["labels"], "old.paceline.dev/field": "x"},
            "annotations": {labels.APPLIED: "00000000"},
            "ownerReferences": child["metadata"]["ownerReferences"],
        },
        "spec": {key: value for key, value in child["spec"].items() if key in KEPT},
    }
    kube.ok("PATCH", path, old, content_type=APPLY, fieldManager=labels.FIELD_MANAGER, force="true")
