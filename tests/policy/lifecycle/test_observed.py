from __future__ import annotations

from typing import Any

import pytest

from paceline.api import labels
from paceline.api.conditions import Reason
from paceline.api.wire import Role
from paceline.errors import HardwareError
from paceline.policy.lifecycle.observed import read_pod, read_workload

ADMIN = {"name": "admin", "containerPort": 2}


def pod(*, metadata: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "a", "namespace": "default", "uid": "u", "creationTimestamp": "1970-01-01T00:01:00Z",
            **(metadata or {}),
        },
        "spec": {"containers": [{"ports": [{"name": "api", "containerPort": 1}, ADMIN]}]},
        "status": status,
    }  # fmt: skip


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"containerStatuses": [{"name": "engine", "state": {"waiting": {"reason": reason, "message": message}}}]}


def test_a_pod_is_read_once_and_for_all() -> None:
    found = read_pod(
        pod(
            metadata={
                "labels": {labels.ROLE: "decode", labels.POOL: "flexible", labels.TEMPLATE: "t"},
                "annotations": {labels.DRAIN: "true", labels.DRAIN_STARTED: "1970-01-01T00:02:00Z"},
            },
            podIP="10.0.0.1",
            conditions=[
                {"type": "Ready", "status": "False"},
                {"type": "ContainersReady", "status": "True"},
                {"type": labels.SERVING_GATE, "status": "False"},
            ],
        )
    )
    assert (found.role, found.pool, found.template) == (Role.DECODE, "flexible", "t")
    assert (found.asked_to_drain, found.drain_started, found.created) == (True, 120.0, 60.0)
    assert (found.ready, found.containers_ready, found.serving) == (False, True, False)
    assert (found.ip, found.admin_port) == ("10.0.0.1", 2)


def test_what_makes_no_sense_counts_as_not_written() -> None:
    notes = {labels.DRAIN: "yes", labels.DRAIN_STARTED: "soon", "controller.kubernetes.io/pod-deletion-cost": "x"}
    found = read_pod(pod(metadata={"labels": {labels.ROLE: "boss"}, "annotations": notes}))
    assert (found.role, found.asked_to_drain, found.drain_started, found.cheap_to_delete) == (None, False, None, False)


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (waiting("ImagePullBackOff", "no such image x"), Reason.IMAGE_PULL_FAILED, "no such image x"),
        (waiting("CrashLoopBackOff"), Reason.CRASHING, "engine"),
        (waiting("CreateContainerConfigError", 'secret "hub" not found'), Reason.PODS_REFUSED, "hub"),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3"}]},
            Reason.UNSCHEDULABLE,
            "0/3",
        ),
    ],
)
def test_trouble_of_a_pod_is_named(status: dict[str, Any], reason: Reason, words: str) -> None:
    trouble = read_pod(pod(**status)).trouble
    assert trouble is not None
    assert trouble.reason is reason
    assert words in trouble.message


WORD = "vLLM ended by a fault of the hardware: CUDA error: uncorrectable ECC error encountered"


def ended(code: int, *, ready: bool = False, where: str = "lastState", name: str = "engine") -> dict[str, Any]:
    container = {"name": name, "ready": ready, where: {"terminated": {"exitCode": code, "message": WORD}}}
    waiting = {} if where == "state" else {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    return {"containerStatuses": [{**container, **waiting}]}


@pytest.mark.parametrize("where", ["state", "lastState"])
def test_an_engine_whose_gpu_failed_says_so_in_its_last_word_and_it_is_more_than_crashing(where: str) -> None:
    trouble = read_pod(pod(**ended(HardwareError.exit_code, where=where))).trouble
    assert trouble is not None
    assert (trouble.reason, trouble.message) == (Reason.GPU_ERROR, WORD)


def test_an_engine_that_is_ready_again_or_ended_otherwise_has_no_gpu_error() -> None:
    for status in (ended(HardwareError.exit_code, ready=True), ended(1), ended(7, name="sidecar")):
        trouble = read_pod(pod(**status)).trouble
        assert trouble is None or trouble.reason is Reason.CRASHING


def test_a_pod_that_just_starts_is_in_no_trouble() -> None:
    assert read_pod(pod(**waiting("ContainerCreating"))).trouble is None


def workload(**status: Any) -> dict[str, Any]:
    metadata = {"name": "w", "uid": "u", "resourceVersion": "1", "labels": {labels.POOL: "p"}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": {}, "status": status}


def test_a_workload_without_replicas_has_one_as_kubernetes_says() -> None:
    assert read_workload(workload()).replicas == 1


@pytest.mark.parametrize(
    ("message", "reason"),
    [("exceeded quota: few", Reason.QUOTA_EXCEEDED), ("denied by a webhook", Reason.PODS_REFUSED)],
)
def test_a_workload_that_can_not_make_pods_says_why(message: str, reason: Reason) -> None:
    failed = {"type": "ReplicaFailure", "status": "True", "message": message}
    trouble = read_workload(workload(conditions=[failed])).trouble
    assert trouble is not None
    assert (trouble.reason, trouble.message) == (reason, message)


def test_a_workload_past_its_deadline_is_late() -> None:
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    assert read_workload(workload(conditions=[late])).late
    # A LeaderWorkerSet says so of one that is complete.
    assert not read_workload(workload(conditions=[{"type": "Progressing", "status": "False"}])).late
