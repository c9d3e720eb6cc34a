"""Engines of pools that the spec no longer names: a role got hardware of its own, or gave it up."""

from __future__ import annotations

import pytest

from paceline.policy.lifecycle.observed import Workload
from tests.policy.lifecycle.world import KIND, World, small

SHARED = ("a", "a")
APART = ("a", "b")


@pytest.mark.parametrize(("before", "after"), [(SHARED, APART), (APART, SHARED)], ids=["apart", "together"])
@pytest.mark.parametrize(("budget", "missing"), [(8, 0), (4, 1)], ids=["room", "no room"])
def test_they_serve_until_others_do_and_then_nothing_is_left_of_them(
    before: tuple[str, str], after: tuple[str, str], budget: int, missing: int
) -> None:
    world = World(small(prefill=2, decode=2, most=4, budget=budget, hardware=before))
    world.run()
    old = set(world.pods)
    world.md = small(prefill=2, decode=2, most=4, budget=budget, hardware=after)
    for _ in range(100):
        world.operate()
        world.settle(3)
        assert world.serving() >= 4 - missing
    assert world.roles() == {"prefill": 2, "decode": 2}
    assert not old & set(world.pods)
    assert {workload.pool for workload in world.workloads.values()} == {engine.pool.name for engine in world.engines}
    assert world.harm == []


def test_a_workload_of_no_pool_is_none_of_engines_and_left_alone() -> None:
    world = World(small())
    world.run()
    router = Workload(KIND, "small-router", "u", "1", "", "", 2, created=0.0, deleting=False, late=False, trouble=None)
    world.workloads["small-router"] = router
    assert world.plan().actions == ()
