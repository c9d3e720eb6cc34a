"""``paceline drain`` and ``paceline flip``: a word on the pod, a wait for the operator, refusals that name the way.

The operator is played by the test: what it really does with that word is told in tests/policy/lifecycle and tests/kube.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from paceline.api import labels
from paceline.policy.lifecycle.observed import DELETION_COST
from tests.cli.conftest import Command
from tests.cli.fake_cluster import NAMESPACE, FakeCluster, at
from tests.cli.scenes import NAME, engine, ready_deployment, ready_status, spec

POD = "chat-b"
PATH = f"/api/v1/namespaces/{NAMESPACE}/pods/{POD}"


class Operator:
    """Takes one step whenever the command pauses."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.steps: Iterator[object] = iter(())
        self.seconds = 0.0

    def will(self, *steps: Callable[[], object]) -> None:
        self.steps = (step() for step in steps)

    def note(self, **notes: str | None) -> Callable[[], object]:
        """Annotations that it writes, or takes off."""

        def step() -> None:
            found = self.cluster.objects[PATH]["metadata"]["annotations"]
            for name, value in notes.items():
                found.pop(getattr(labels, name), None) if value is None else found.update(
                    {getattr(labels, name): value}
                )

        return step

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        next(self.steps, None)

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def operator(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Operator:
    one = Operator(cluster)
    monkeypatch.setattr(time, "sleep", one.sleep)
    monkeypatch.setattr("paceline.clock.WallClock.monotonic", lambda _: one.monotonic())
    ready_deployment(cluster, mode="Recommend")
    return one


def patched(cluster: FakeCluster) -> dict[str, Any]:
    """The annotations that the command wrote, the only thing that it wrote."""
    ((path, body, query),) = cluster.patches
    assert path == PATH
    assert body["metadata"].keys() == {"uid", "annotations"}
    assert query["fieldManager"] == ["paceline-cli"]
    return dict(body["metadata"]["annotations"])


def test_a_drain_is_asked_for_and_followed_until_the_engine_is_gone(
    cluster: FakeCluster, paceline: Command, operator: Operator
) -> None:
    def out_of_service() -> None:
        pod = cluster.objects[PATH]
        pod["metadata"]["annotations"][DELETION_COST] = "-1000"
        for one in pod["status"]["conditions"]:
            one["status"] = "True" if one["type"] == "ContainersReady" else "False"

    operator.will(
        operator.note(DRAIN_STARTED=at(0)),
        out_of_service,
        lambda: cluster.objects[PATH]["metadata"].update(deletionTimestamp=at(0)),
        lambda: cluster.objects.pop(PATH),
    )
    code, out, err = paceline("drain", f"pod/{POD}")
    assert (code, err) == (0, "")
    assert patched(cluster) == {labels.DRAIN: "true"}
    assert out.splitlines() == [
        "chat-b: is to take no new work, and goes when its last request has ended, after 120 s at the latest.",
        "chat-b: waits for the operator.",
        "chat-b: finishes its last requests.",
        "chat-b: has no work any more; it is out of service.",
        "chat-b: has no work any more; its processes end.",
        "chat-b: gone; its workload makes another one.",
    ]


def test_a_pod_of_that_name_that_is_another_one_means_that_the_first_is_gone(
    cluster: FakeCluster, paceline: Command, operator: Operator
) -> None:
    operator.will(lambda: engine(cluster, POD, "decode", uid="another"))
    assert paceline("drain", POD)[1].endswith("gone; its workload makes another one.\n")


def test_nobody_waits_who_does_not_want_to(cluster: FakeCluster, paceline: Command, operator: Operator) -> None:
    assert paceline("drain", POD, "--no-wait")[0] == 0
    assert operator.seconds == 0
    assert patched(cluster) == {labels.DRAIN: "true"}


def test_an_engine_that_drains_already_is_only_followed(
    cluster: FakeCluster, paceline: Command, operator: Operator
) -> None:
    engine(cluster, POD, "decode", notes={labels.DRAIN: "true", labels.DRAIN_STARTED: at(9)})
    operator.will(lambda: cluster.objects.pop(PATH))
    assert paceline("drain", POD)[1].startswith("chat-b: finishes its last requests.\n")
    assert cluster.patches == []


def test_an_operator_that_does_not_react_is_looked_for_and_the_wait_ends(
    cluster: FakeCluster, paceline: Command, operator: Operator
) -> None:
    code, _, err = paceline("drain", POD, "--timeout-seconds", "60")
    assert code == 1
    assert "No operator has reacted yet: `paceline check` says whether one runs." in err
    assert "after 60 s still: waits for the operator. It goes on without this command." in err
    assert operator.seconds == 60


def test_the_last_engine_that_generates_tokens_is_drained_only_by_force(
    cluster: FakeCluster, paceline: Command, operator: Operator
) -> None:
    engine(cluster, "chat-c", "decode", ready=False)
    code, _, err = paceline("drain", POD)
    assert code == 1
    assert "chat-b is the only engine that generates tokens" in err
    assert cluster.patches == []
    assert paceline("drain", POD, "--no-wait", "--force")[0] == 0
    assert patched(cluster) == {labels.DRAIN: "true"}


@pytest.mark.parametrize(
    ("pod", "code", "message"),
    [
        ("chat-router-x", 1, "chat-router-x is a router, not an engine."),
        ("follower", 1, "is one of several pods of an engine"),
        ("stranger", 1, "stranger is no pod of Paceline"),
        ("nobody", 6, "There is no pod nobody in namespace prod."),
    ],
)
def test_what_is_no_engine_is_left_alone(
    cluster: FakeCluster, paceline: Command, operator: Operator, pod: str, code: int, message: str
) -> None:
    engine(cluster, "follower", None, component=labels.COMPONENT_FOLLOWER)
    engine(cluster, "stranger", None, component="web")
    for command in (["drain", pod], ["flip", pod, "--to", "decode"]):
        found, _, err = paceline(*command)
        assert found == code
        assert message in err
    assert cluster.patches == []


def becomes(cluster: FakeCluster, role: str) -> Callable[[], object]:
    def step() -> None:
        metadata = cluster.objects[PATH]["metadata"]
        metadata["labels"][labels.ROLE] = role
        metadata["annotations"].clear()

    return step


def test_a_flip_is_asked_for_and_followed_until_the_engine_serves_its_new_role(
    cluster: FakeCluster, paceline: Command, operator: Operator
) -> None:
    operator.will(operator.note(ROLE_CHANGE_STARTED=at(0)), becomes(cluster, "prefill"))
    code, out, err = paceline("flip", POD, "--to", "prefill")
    assert (code, err) == (0, "")
    assert patched(cluster) == {labels.NEXT_ROLE: "prefill"}
    assert out.splitlines() == [
        "chat-b: is to serve prefill instead of decode.",
        "chat-b: waits for the operator.",
        "chat-b: finishes what it has, then serves prefill.",
        "chat-b: serves prefill.",
    ]


def test_with_mode_auto_it_is_said_that_the_planner_may_change_it_back(
    cluster: FakeCluster, paceline: Command, operator: Operator
) -> None:
    cluster.deployment(NAME, spec=spec(mode="Auto"), status=ready_status())
    _, out, _ = paceline("flip", POD, "--to", "prefill", "--no-wait")
    assert "the planner looks every 5 s and changes it back when the load asks for that" in out


def test_a_flip_that_the_operator_puts_back_is_told(
    cluster: FakeCluster, paceline: Command, operator: Operator
) -> None:
    operator.will(operator.note(NEXT_ROLE=None))
    code, _, err = paceline("flip", POD, "--to", "prefill")
    assert code == 1
    assert "chat-b goes on as decode: the operator has put it back." in err


def test_an_engine_that_serves_that_role_already_is_left_alone(
    cluster: FakeCluster, paceline: Command, operator: Operator
) -> None:
    assert paceline("flip", POD, "--to", "decode") == (0, "chat-b: serves decode already.\n", "")
    assert cluster.patches == []


@pytest.mark.parametrize(
    ("changed", "pod", "message"),
    [
        ({"mode": "Off"}, {}, "scaling.mode is Off: minReplicas in spec.pools says how many engines serve each role"),
        ({"product": ("h100", "h200")}, {}, "roles change only where prefill and decode have the same hardware"),
        ({"least": 2}, {}, "1 decode engines would be left, and spec.pools asks for at least 2. Lower minReplicas"),
        ({"most": 1}, {}, "There would be 2 prefill engines, and spec.pools allows 1. Raise maxReplicas."),
        ({}, {"template": "older"}, "Engines are being replaced just now"),
        ({}, {"notes": {labels.DRAIN: "true"}}, "chat-b is on its way out"),
        ({}, {"ready": False}, "chat-b is not ready yet"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_a_flip_that_would_not_last_is_refused_with_what_would(
    cluster: FakeCluster, paceline: Command, operator: Operator, changed: Any, pod: Any, message: str
) -> None:
    cluster.deployment(NAME, spec=spec(**{"mode": "Recommend", **changed}), status=ready_status())
    engine(cluster, POD, "decode", **pod)
    code, out, err = paceline("flip", POD, "--to", "prefill")
    assert (code, out) == (1, "")
    assert message in err
    assert cluster.patches == []
