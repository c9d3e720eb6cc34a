"""Engines that do not get ready: replaced ever more rarely, each try told once, and the rest of the loop goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from paceline.api.v1alpha1.status import ScalingDecision
from paceline.api.wire import EngineState, Role
from paceline.planner.deployment import DeploymentPlanner, Step
from paceline.planner.measured import EngineFact
from paceline.planner.patience import LONGEST_PAUSE_SECONDS
from paceline.planner.source import Reading
from tests.planner.pages import FakeRouter
from tests.planner.world import elastic

P, D = Role.PREFILL, Role.DECODE
DEADLINE = 600.0
LOOK = 30.0


@dataclass
class Stuck:
    """One engine of each role, load for more, and nobody who makes any: a quota refuses the pods. ``pods``: they are
    made, and never get ready.
    """

    budget: int | None = None
    pods: bool = False
    rate: float = 1.5
    now: float = 1000.0
    engines: dict[str, EngineFact] = field(default_factory=dict)
    news: list[tuple[float, ScalingDecision]] = field(default_factory=list)
    made: int = 0

    def __post_init__(self) -> None:
        self.planner = DeploymentPlanner(
            elastic(most=5, intervalSeconds=30, demandWindowSeconds=120, budget=self.budget), {P: 1, D: 1}
        )
        self.router = FakeRouter()
        self.engines = {
            name: EngineFact(name, role, EngineState.READY, 0.0) for name, role in (("prefill", P), ("decode", D))
        }
        self.pages = [self.router.page(self.now)]

    def look(self) -> Step:
        self.router.arrive(12_000, times=round(self.rate * LOOK))
        self.now += LOOK
        self.pages = [*self.pages[-10:], self.router.page(self.now)]
        facts = list(self.engines.values())
        step = self.planner.look(Reading(pages={"router": self.pages}), facts, ["router"], now=self.now)
        if step.news is not None:
            self.news.append((self.now, step.news))
        if self.pods:
            self._make_pods()
        return step

    def until(self, seconds: float) -> Step:
        while self.now < 1000.0 + seconds:
            step = self.look()
        return step

    def _make_pods(self) -> None:
        orders = self.planner.orders
        for name in orders.leaving & set(self.engines):
            del self.engines[name]
        while len(self.engines) < sum(orders.counts.values()):
            self.made += 1
            name = f"new-{self.made}"
            self.engines[name] = EngineFact(name, None, EngineState.STARTING, self.now)

    def tries(self) -> list[float]:
        return [at for at, one in self.news if one.reason.startswith("Replace")]


@pytest.mark.parametrize("pods", [False, True])
@pytest.mark.parametrize("budget", [None, 8])
def test_each_try_waits_twice_as_long_as_the_last_and_is_told_once(pods: bool, budget: int | None) -> None:
    world = Stuck(pods=pods, budget=budget)
    wanted = world.until(DEADLINE).decision.engines.total
    assert wanted > 2
    told = len(world.news)
    step = world.until(20 * DEADLINE)
    tries = [at for at, one in world.news[told:] if "Replace" in one.reason or "Remove" in one.reason]
    assert 4 <= len(tries) <= 6
    gaps = [after - before for before, after in pairwise(tries)]
    assert all(after >= 1.8 * before for before, after in pairwise(gaps) if before < 1800)
    assert len(world.news) <= told + 2 * len(tries)
    assert step.decision.engines.total == wanted
    assert all(gap <= LONGEST_PAUSE_SECONDS + 2 * DEADLINE for gap in gaps)


def test_between_two_tries_it_says_that_it_waits_and_asks_for_as_many_as_before() -> None:
    world = Stuck()
    world.until(DEADLINE)
    ordered = dict(world.planner.counts)
    step = world.until(3.5 * DEADLINE)
    assert not step.decision.starts
    assert not step.decision.drains
    assert any("Not ready by the start deadline" in sentence for sentence in step.words)
    assert any("replace" in sentence and "each try waits longer" in sentence for sentence in step.words)
    assert sum(world.planner.counts.values()) == sum(ordered.values())


def test_late_engines_go_at_once_when_they_are_not_wanted_any_more() -> None:
    world = Stuck(pods=True)
    world.until(3.5 * DEADLINE)
    assert len(world.engines) > 2
    world.rate = 0.0
    world.until(3.5 * DEADLINE + 900.0)
    assert len(world.engines) == 2


def test_once_an_engine_gets_ready_patience_begins_anew() -> None:
    world = Stuck(pods=True)
    world.until(5 * DEADLINE)
    for name, one in list(world.engines.items()):
        world.engines[name] = EngineFact(name, one.role or P, EngineState.READY, one.created)
    world.until(6 * DEADLINE)
    world.rate *= 2
    world.until(9.5 * DEADLINE)
    again = [at for at in world.tries() if at > 1000.0 + 6 * DEADLINE]
    assert len(again) >= 2
    assert again[1] - again[0] < 1.5 * DEADLINE
