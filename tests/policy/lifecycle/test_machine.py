"""Whatever happens, in whatever order, the engines come to what the spec asks for, and nobody is cut off on the way."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.policy.lifecycle.world import World, small

BUDGET = 8


class Lifecycle(RuleBasedStateMachine):
    """Spec changes, dying engines, lost pods, busy engines, and operators that die between any two writes."""

    @initialize(
        seed=st.integers(0, 1_000_000),
        flexible=st.booleans(),
        budget=st.sampled_from([None, 4, BUDGET]),
        drain_first=st.booleans(),
    )
    def start(self, seed: int, flexible: bool, budget: int | None, drain_first: bool) -> None:
        self.drain_first = drain_first
        self.counts = (1, 1)
        self.image = "one"
        self.budget = budget
        self.hardware = ("gpu", "gpu") if flexible else ("a", "b")
        self.world = World(self.spec(), random.Random(seed))

    def spec(self):
        prefill, decode = self.counts
        return small(
            prefill=prefill,
            decode=decode,
            most=4,
            budget=self.budget,
            image=self.image,
            hardware=self.hardware,
            drain_first=self.drain_first,
        )

    @rule(killed_after=st.none() | st.integers(0, 3))
    def operate(self, killed_after: int | None) -> None:
        self.world.operate(killed_after=killed_after)

    @rule(seconds=st.sampled_from([0.5, 3.0, 20.0]))
    def settle(self, seconds: float) -> None:
        self.world.settle(seconds)

    @rule()
    def both(self) -> None:
        self.world.operate()
        self.world.settle(3.0)

    @rule(prefill=st.integers(1, 2), decode=st.integers(1, 2))
    def resize(self, prefill: int, decode: int) -> None:
        self.counts = (prefill, decode)
        self.world.md = self.spec()

    @rule(image=st.sampled_from(["one", "two", "bad"]))
    def another_image(self, image: str) -> None:
        self.image = image
        self.world.bad_images = {"bad"}
        self.world.md = self.spec()

    @rule(data=st.data())
    def an_engine_crashes(self, data: st.DataObject) -> None:
        if self.world.pods:
            self.world.crash(data.draw(st.sampled_from(sorted(self.world.pods))))

    @rule(data=st.data())
    def a_node_takes_a_pod_along(self, data: st.DataObject) -> None:
        if self.world.pods:
            self.world.lose(data.draw(st.sampled_from(sorted(self.world.pods))))

    @rule(data=st.data())
    def an_engine_gets_work(self, data: st.DataObject) -> None:
        ready = sorted(pod.name for pod in self.world.pods.values() if pod.ready and not pod.asked_to_drain)
        if ready:
            self.world.busy.add(data.draw(st.sampled_from(ready)))

    @rule()
    def work_is_done(self) -> None:
        self.world.busy.clear()

    @rule(data=st.data())
    def somebody_scales_a_workload_down_by_hand(self, data: st.DataObject) -> None:
        # Not more than that: Kubernetes then removes engines that serve, and nobody can help it.
        workloads = sorted(self.world.workloads.values(), key=lambda each: each.name)
        if workloads:
            chosen = data.draw(st.sampled_from(workloads))
            ready = sum(pod.containers_ready for pod in self.world.pods.values() if pod.template == chosen.template)
            if chosen.replicas > ready:
                self.world._resize(chosen, chosen.replicas - 1)

    @rule(data=st.data())
    def somebody_deletes_a_workload(self, data: st.DataObject) -> None:
        if self.world.workloads:
            self.world.delete_workload(data.draw(st.sampled_from(sorted(self.world.workloads))))

    @invariant()
    def nobody_came_to_harm(self) -> None:
        assert self.world.harm == []

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        world = self.world
        self.image = "two"
        world.md = self.spec()
        world.busy.clear()
        world.run(passes=300)
        prefill, decode = self.counts
        assert world.roles() == {"prefill": prefill, "decode": decode}
        assert len(world.pods) == prefill + decode
        assert {pod.template for pod in world.pods.values()} == {engine.template_hash for engine in world.engines}
        assert len(world.workloads) == len(world.engines)
        assert world.harm == []
        assert world.operate() == ()


Lifecycle.TestCase.settings = settings(
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestLifecycle = Lifecycle.TestCase
