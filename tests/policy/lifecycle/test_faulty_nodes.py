"""Which nodes fail engines, by what their pods' last ends say."""

from __future__ import annotations

from typing import Any

from paceline.api import labels
from paceline.errors import HardwareError
from paceline.policy.lifecycle.faulty_nodes import WINDOW_SECONDS, FaultyNodes
from paceline.policy.lifecycle.observed import Pod, read_pod

NOW = 1_000_000.0


def pod(
    name: str, node: str = "gpu-1", at: str | None = "1970-01-12T13:46:39Z", code: int = HardwareError.exit_code
) -> Pod:
    ended: dict[str, Any] = {"exitCode": code, "finishedAt": at} if at is not None else {}
    raw = {
        "metadata": {"namespace": "n", "name": name, "uid": name, "labels": {labels.COMPONENT: "engine"}},
        "spec": {"nodeName": node},
        "status": {"containerStatuses": [{"name": "engine", "ready": True, "lastState": {"terminated": ended}}]},
    }
    return read_pod(raw)


def test_so_many_faults_on_one_node_make_it_a_faulty_one() -> None:
    nodes = FaultyNodes(2)
    assert nodes.look([pod("a"), pod("b", "gpu-2")], NOW) == {}
    assert nodes.look([pod("a"), pod("c")], NOW) == {"gpu-1": 2}


def test_a_fault_that_is_seen_often_counts_once_and_a_later_one_of_the_same_pod_again() -> None:
    nodes = FaultyNodes(2)
    for _ in range(5):
        assert nodes.look([pod("a")], NOW) == {}
    assert nodes.look([pod("a", at="1970-01-12T13:46:40Z")], NOW) == {"gpu-1": 2}


def test_other_ends_and_faults_of_long_ago_do_not_count() -> None:
    nodes = FaultyNodes(1)
    assert nodes.look([pod("a", code=1), pod("b", at=None), pod("c", node="")], NOW) == {}
    assert nodes.look([pod("d")], NOW + WINDOW_SECONDS + 10) == {}


def test_what_a_person_has_mended_is_not_held_against_a_node_again() -> None:
    nodes = FaultyNodes(1)
    assert nodes.look([pod("a")], NOW) == {"gpu-1": 1}
    nodes.forgive("gpu-1")
    assert nodes.look([pod("a")], NOW) == {}
    assert nodes.look([pod("a", at="1970-01-12T13:46:40Z")], NOW) == {"gpu-1": 1}
