"""The planner of an operator: what passes are told, when they are asked for, and what the status says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from prometheus_client import generate_latest

from paceline.api import labels
from paceline.api.conditions import ConditionType, Reason
from paceline.api.v1alpha1 import ConditionStatus, ModelDeployment, ModelDeploymentStatus
from paceline.api.wire import Role
from paceline.clock import VirtualClock
from paceline.planner.deployment import DeploymentPlanner
from paceline.planner.metrics import PlannerMetrics
from paceline.planner.pages import RouterPage
from paceline.planner.sharing import Quota
from paceline.planner.source import Blind, Reading, Router
from paceline.planner.targets import PlannerTargets
from paceline.policy.lifecycle.observed import Pod, read_pod, read_workload
from paceline.policy.lifecycle.orders import Situation
from paceline.policy.resources import hardware_pools
from paceline.policy.scaling.profiles import known_profiles
from tests.planner.pages import FakeRouter
from tests.planner.world import elastic

P, D = Role.PREFILL, Role.DECODE
KEY = ("default", "elastic")


class FakeSource:
    """Gives what the test puts in, and notes who asked."""

    def __init__(self) -> None:
        self.router = FakeRouter()
        self.pages: list[RouterPage] = []
        self.blind: Blind | None = None
        self.asked: list[tuple[str, str, Sequence[Router]]] = []
        self.forgotten: list[tuple[str, str]] = []
        self.closed = False

    async def read(self, namespace: str, deployment: str, routers: Sequence[Router], *, seconds: float) -> Reading:
        self.asked.append((namespace, deployment, routers))
        if self.blind is not None:
            return Reading(blind=self.blind)
        return Reading(pages={router.name: tuple(self.pages) for router in routers})

    def forget(self, namespace: str, deployment: str) -> None:
        self.forgotten.append((namespace, deployment))

    async def close(self) -> None:
        self.closed = True


def pod(name: str, role: Role | None, *, component: str = "engine") -> Pod:
    named = {labels.DEPLOYMENT: "elastic", labels.COMPONENT: component, labels.POOL: "flexible", labels.TEMPLATE: "t"}
    if role is not None:
        named[labels.ROLE] = role.value
    ports = [{"name": "admin", "containerPort": 8080}]
    ready = [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady", labels.SERVING_GATE)]
    return read_pod(
        {
            "metadata": {"namespace": "default", "name": name, "uid": name, "labels": named},
            "spec": {"containers": [{"ports": ports}]},
            "status": {"podIP": "10.0.0.1", "phase": "Running", "conditions": ready},
        }
    )


class Bench:
    """A planner with one deployment of one prefill and one decode engine and a router."""

    def __init__(self, md: ModelDeployment | None = None, **more: Any) -> None:
        self.clock = VirtualClock(epoch=1000.0)
        self.source, self.direct = FakeSource(), FakeSource()
        self.targets = PlannerTargets(self.source, self.direct, self.clock, PlannerMetrics(), **more)
        self.passes: list[tuple[str, str]] = []
        self.targets.ask_for_passes(lambda namespace, name: self.passes.append((namespace, name)))
        self.md = md or elastic()
        self.engines = {"e0": P, "e1": D}
        self.replicas = 2
        self.edited: dict[str, int] = {}

    def situation(self) -> Situation:
        pods = [pod(name, role) for name, role in self.engines.items()]
        pods.append(pod("elastic-router-a-b", None, component="router"))
        named = {labels.POOL: "flexible", labels.TEMPLATE: "t"}
        workload = read_workload(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "w", "uid": "w", "resourceVersion": "1", "labels": named},
                "spec": {"replicas": self.replicas},
            }
        )
        return Situation(
            md=self.md,
            pools=hardware_pools(self.md.spec),
            workloads=[workload],
            pods=pods,
            status=ModelDeploymentStatus(),
            now=self.clock.wall(),
            edited=self.edited,
        )

    def orders(self) -> dict[Role, int]:
        return dict(self.targets.orders(self.situation()).counts)

    async def look(self, *, came: int = 0, prompt: int = 6000) -> None:
        """Ten seconds in which so many requests came, and a look."""
        self.source.router.arrive(prompt, times=came)
        self.clock.advance(10.0)
        self.source.pages.append(self.source.router.page(self.clock.wall()))
        await self.targets.step(*KEY)


async def test_until_something_is_known_a_pass_holds_what_is_there() -> None:
    bench = Bench()
    assert bench.orders() == {P: 1, D: 1}
    assert bench.targets.view(bench.md) is None
    await bench.targets.close()
    assert bench.source.closed


async def test_load_asks_for_engines_and_for_a_pass_to_make_them() -> None:
    bench = Bench()
    bench.orders()
    for _ in range(8):
        await bench.look(came=80)
    assert bench.orders()[P] > 1
    assert bench.passes
    view = bench.targets.view(bench.md)
    assert view is not None
    assert view.metrics.status is ConditionStatus.TRUE
    assert view.decisions[0].after.prefill > 1
    assert view.recommended is not None
    await bench.targets.close()


async def test_a_look_that_changes_nothing_asks_for_no_pass() -> None:
    bench = Bench()
    bench.orders()
    for _ in range(3):
        await bench.look()
    asked = len(bench.passes)
    for _ in range(5):
        await bench.look()
    assert len(bench.passes) == asked
    await bench.targets.close()


async def test_without_metrics_it_holds_and_says_so_once() -> None:
    bench = Bench()
    bench.orders()
    for _ in range(8):
        await bench.look(came=80)
    held = bench.orders()
    bench.source.blind = Blind(Reason.METRICS_UNREACHABLE, "Prometheus can't be asked: refused")
    before = len(bench.passes)
    for _ in range(4):
        await bench.look()
    assert bench.orders() == held
    assert len(bench.passes) == before + 1
    view = bench.targets.view(bench.md)
    assert view is not None
    assert (view.metrics.type, view.metrics.status) == (ConditionType.METRICS_AVAILABLE, ConditionStatus.FALSE)
    assert view.metrics.reason is Reason.METRICS_UNREACHABLE
    assert "The planner holds: Prometheus can't be asked" in view.metrics.message
    bench.source.blind = None
    await bench.look()
    assert (view := bench.targets.view(bench.md)) is not None
    assert view.metrics.status is ConditionStatus.TRUE
    await bench.targets.close()


async def test_off_asks_nobody_and_runs_the_minima() -> None:
    bench = Bench(elastic(mode="Off", least=2))
    assert bench.orders() == {P: 2, D: 2}
    view = bench.targets.view(bench.md)
    assert view is not None
    assert (view.decides, view.metrics.reason) == (False, Reason.SCALING_OFF)
    assert bench.source.asked == []
    await bench.targets.close()


async def test_recommend_holds_what_the_user_gave_and_says_what_it_would_do() -> None:
    bench = Bench(elastic(mode="Recommend"))
    bench.orders()
    for _ in range(8):
        await bench.look(came=80)
    assert bench.orders() == {P: 1, D: 1}
    view = bench.targets.view(bench.md)
    assert view is not None
    assert view.recommended is not None
    assert view.recommended.prefill > 1
    bench.edited, bench.replicas = {"flexible": 4}, 4
    assert sum(bench.orders().values()) == 4
    await bench.targets.close()


async def test_in_auto_a_number_given_by_hand_changes_nothing() -> None:
    bench = Bench()
    assert bench.orders() == {P: 1, D: 1}
    bench.edited, bench.replicas = {"flexible": 4}, 4
    assert bench.orders() == {P: 1, D: 1}
    await bench.targets.close()


async def test_bounds_that_change_are_followed_at_once() -> None:
    bench = Bench()
    bench.orders()
    bench.md = elastic(least=3)
    assert bench.orders() == {P: 3, D: 3}
    bench.md = elastic(most=2)
    assert bench.orders() == {P: 2, D: 2}
    await bench.targets.close()


async def test_engines_of_unknown_speed_are_not_planned_for_and_the_message_says_what_to_do() -> None:
    md = elastic()
    unknown = md.spec.model.model_copy(update={"name": "Somebody/Secret-7B"})
    bench = Bench(md.model_copy(update={"spec": md.spec.model_copy(update={"model": unknown})}))
    bench.orders()
    for _ in range(3):
        await bench.look(came=100)
    assert bench.orders() == {P: 1, D: 1}
    view = bench.targets.view(bench.md)
    assert view is not None
    assert view.metrics.reason is Reason.ENGINE_MODEL_MISSING
    assert "paceline.dev/engine-profile" in view.metrics.message
    # Only what the operator can be given: it takes profiles by name.
    assert [name for name in known_profiles() if name not in view.metrics.message] == []
    assert "calibrate" not in view.metrics.message
    await bench.targets.close()


async def test_engines_that_nobody_has_measured_are_planned_for_by_a_guess_and_it_says_so() -> None:
    md = elastic()
    shaped = md.spec.model.model_copy(update={"name": "meta-llama/Llama-3.1-8B"})
    bench = Bench(md.model_copy(update={"spec": md.spec.model_copy(update={"model": shaped})}))
    bench.orders()
    for _ in range(8):
        await bench.look(came=400)
    assert bench.orders()[P] > 1
    view = bench.targets.view(bench.md)
    assert view is not None
    assert view.metrics.status is ConditionStatus.TRUE
    assert "Engine speeds are a guess" in view.metrics.message
    assert "`paceline calibrate` measures them." in view.metrics.message
    await bench.targets.close()


async def test_who_does_not_lead_any_more_forgets_everything_and_begins_with_what_is_there() -> None:
    bench = Bench()
    bench.orders()
    for _ in range(8):
        await bench.look(came=80)
    assert bench.orders()[P] > 1
    bench.targets.stand_by()
    assert KEY in bench.source.forgotten
    assert bench.orders() == {P: 1, D: 1}
    await bench.targets.close()


async def test_a_sleeping_deployment_is_watched_at_its_routers_and_often() -> None:
    bench = Bench(elastic(scaleToZero={"policy": "WhenIdle", "idleSeconds": 60}))
    bench.orders()
    bench.direct.pages = bench.source.pages
    for _ in range(12):
        await bench.look()
    assert bench.orders() == {P: 0, D: 0}
    bench.engines, bench.replicas = {}, 0
    asked = len(bench.source.asked)
    await bench.look()
    assert len(bench.source.asked) == asked
    bench.source.router.queued = 1
    bench.source.router.arrive(500)
    await bench.look()
    assert sum(bench.orders().values()) >= 1
    await bench.targets.close()


async def test_two_deployments_share_a_quota_and_it_is_never_exceeded() -> None:
    bench = Bench(elastic(most=8), quota=Quota(8))
    bench.orders()
    for _ in range(10):
        await bench.look(came=200)
        assert sum(bench.orders().values()) <= 4
    assert sum(bench.orders().values()) == 4
    await bench.targets.close()


async def test_what_others_need_of_a_quota_is_followed_though_no_pass_of_its_own_is_asked_for() -> None:
    quota = Quota(8)
    bench = Bench(elastic(most=8), quota=quota)
    bench.orders()
    for _ in range(8):
        await bench.look(came=200)
    bench.engines = {"e0": P, "e1": D, "e2": P, "e3": P}
    bench.replicas = 4
    assert sum(bench.orders().values()) == 4
    quota.share(("default", "other"), DeploymentPlanner(elastic(), {P: 1, D: 1}), engines=0, now=bench.clock.wall())
    asked = len(bench.passes)
    for _ in range(2):
        await bench.look(came=200)
    assert len(bench.passes) > asked
    view = bench.targets.view(bench.md)
    assert view is not None
    assert view.decisions[0].after.prefill + view.decisions[0].after.decode == 3, "engines drain one at a time"
    assert any("default/elastic gives 4 GPUs to default/other" in one.reason for one in view.decisions)
    await bench.targets.close()


async def test_metrics_tell_what_was_decided_and_go_with_the_deployment() -> None:
    bench = Bench()
    bench.orders()
    for _ in range(8):
        await bench.look(came=80)
    page = generate_latest(bench.targets.metrics.registry).decode()
    who = 'deployment="elastic",namespace="default"'
    assert f"paceline_planner_metrics_available{{{who}}} 1.0" in page
    assert f'paceline_planner_decisions_total{{{who},outcome="changed"}}' in page
    bench.targets.forget(*KEY)
    assert "elastic" not in generate_latest(bench.targets.metrics.registry).decode()
    await bench.targets.close()


async def test_the_loop_looks_by_itself_and_a_step_that_fails_does_not_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("paceline.planner.targets.FIRST_LOOK_SECONDS", 0.0)
    monkeypatch.setattr("paceline.planner.targets.FAILED_SECONDS", 0.01)
    bench = Bench(elastic(intervalSeconds=1))
    looked = asyncio.Event()

    async def failing_once(namespace: str, deployment: str, routers: Sequence[Router], *, seconds: float) -> Reading:
        bench.source.asked.append((namespace, deployment, routers))
        if len(bench.source.asked) == 1:
            raise RuntimeError("a bug")
        looked.set()
        return Reading()

    monkeypatch.setattr(bench.source, "read", failing_once)
    bench.orders()
    async with asyncio.timeout(30):
        await looked.wait()
    assert [router.name for router in bench.source.asked[0][2]] == ["elastic-router-a-b"]
    await bench.targets.close()
