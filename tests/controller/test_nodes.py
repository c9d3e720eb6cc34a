"""A node whose GPUs fail engines is tainted, where the user asked for it; nothing of others is lost."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.clock import VirtualClock
from paceline.controller.events import Events
from paceline.controller.nodes import NodeTaints
from paceline.controller.refusals import ApiError, Forbidden, NotLeader
from paceline.controller.writer import Writer
from paceline.policy.lifecycle.observed import Pod
from tests.controller.fakes import FakeApi
from tests.policy.lifecycle.test_faulty_nodes import NOW, pod

PATH = "/api/v1/nodes/gpu-1"
OTHERS = [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]
OURS = {"key": "paceline.dev/gpu-fault", "value": "true", "effect": "NoSchedule"}
ABOUT = {"metadata": {"namespace": "team", "name": "chat", "uid": "u", "resourceVersion": "1"}}
FAULTS = (pod("a"), pod("b"))


class Cluster:
    def __init__(self, *, limit: int = 2) -> None:
        self.api = FakeApi()
        self.leads = True
        api: Any = self.api
        clock = VirtualClock(epoch=NOW)
        writer = Writer(api, may_write=lambda: self.leads)
        self.nodes = NodeTaints(api, writer, Events(writer, clock, "operator-1"), clock, limit=limit)
        self.api._store(PATH, {"metadata": {"name": "gpu-1"}, "spec": {"taints": list(OTHERS), "podCIDR": "x"}})

    async def look(self, *pods: Pod) -> None:
        await self.nodes.look(ABOUT, pods)

    @property
    def taints(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.api.objects[PATH]["spec"]["taints"]
        return found

    @property
    def events(self) -> list[str]:
        return [raw["message"] for path, raw in self.api.objects.items() if "/events/" in path]


async def test_a_node_whose_gpus_failed_as_often_as_is_allowed_is_tainted_once_and_it_is_told() -> None:
    cluster = Cluster()
    await cluster.look(FAULTS[0])
    assert cluster.taints == OTHERS
    await cluster.look(*FAULTS)
    assert cluster.taints == [*OTHERS, OURS]
    assert cluster.api.objects[PATH]["spec"]["podCIDR"] == "x"
    (event,) = cluster.events
    assert "GPUs of node gpu-1 failed engines 2 times" in event
    assert "kubectl taint node gpu-1 paceline.dev/gpu-fault-" in event
    writes = list(cluster.api.writes)
    await cluster.look(*FAULTS)
    assert cluster.api.writes == writes


async def test_a_taint_that_a_person_took_away_stays_away_until_gpus_fail_again() -> None:
    cluster = Cluster()
    await cluster.look(*FAULTS)
    cluster.api._store(PATH, {"metadata": {"name": "gpu-1"}, "spec": {"taints": []}})
    await cluster.look(*FAULTS)
    assert cluster.taints == []


async def test_by_default_nobody_looks_at_nodes() -> None:
    cluster = Cluster(limit=0)
    await cluster.look(*FAULTS)
    assert cluster.api.writes == []
    assert cluster.taints == OTHERS


async def test_a_right_that_is_missing_fails_no_pass_and_it_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()

    def refuse(verb: str, path: str) -> ApiError | None:
        return Forbidden(verb, "nodes", 403, "Forbidden", "nodes is forbidden") if "/nodes/" in path else None

    cluster.api.refusals.append(refuse)
    await cluster.look(*FAULTS)
    assert "node gpu-1 can't be tainted after 2 GPU errors" in caplog.text
    cluster.api.refusals.clear()
    await cluster.look(*FAULTS)
    assert OURS in cluster.taints


async def test_a_replica_that_does_not_lead_taints_nothing() -> None:
    cluster = Cluster()
    cluster.leads = False
    with pytest.raises(NotLeader):
        await cluster.look(*FAULTS)
    assert cluster.taints == OTHERS


async def test_a_node_that_is_gone_is_let_go() -> None:
    cluster = Cluster()
    del cluster.api.objects[PATH]
    await cluster.look(*FAULTS)
    assert cluster.events == []
