"""Replacing engines: by surge where the budget has room, by drain where it has none, and never past a bad revision."""

from __future__ import annotations

import pytest

from paceline.policy.lifecycle.actions import BeginDrain, SetReplicas
from tests.policy.lifecycle.world import World, small


def rolled_out(**changes: object) -> World:
    world = World(small(**changes))  # type: ignore[arg-type]
    world.run()
    return world


def test_with_room_new_engines_start_first_and_nothing_is_ever_missing() -> None:
    world = rolled_out(prefill=2, decode=2, most=4, budget=6)
    world.md = small(prefill=2, decode=2, most=4, budget=6, image="two")
    for _ in range(40):
        world.operate()
        world.settle(3)
        assert world.serving() >= 4
    assert world.roles() == {"prefill": 2, "decode": 2}
    assert world.harm == []


@pytest.mark.parametrize(("each", "step"), [(1, 1), (2, 1), (4, 2)])
def test_without_room_at_most_a_quarter_is_missing(each: int, step: int) -> None:
    total = 2 * each
    world = rolled_out(prefill=each, decode=each, most=each, budget=total)
    world.md = small(prefill=each, decode=each, most=each, budget=total, image="two")
    least = total
    for _ in range(100):
        world.operate()
        world.settle(3)
        least = min(least, world.serving())
    assert least == total - step
    assert world.roles() == {"prefill": each, "decode": each}
    assert world.harm == []


def test_the_ratio_is_kept_on_the_way() -> None:
    world = rolled_out(prefill=2, decode=6, most=6, budget=8)
    world.md = small(prefill=2, decode=6, most=6, budget=8, image="two")
    for _ in range(100):
        world.operate()
        world.settle(3)
        roles = world.roles()
        decode, prefill, both = (roles.get(name, 0) for name in ("decode", "prefill", "both"))
        assert decode + both >= 4
        assert prefill + both >= 1
        assert prefill <= 2
    assert world.roles() == {"prefill": 2, "decode": 6}


def test_a_revision_that_does_not_get_ready_stops_at_the_first_step() -> None:
    world = rolled_out(prefill=2, decode=2, most=2, budget=4)
    world.bad_images = {"bad"}
    world.md = small(prefill=2, decode=2, most=2, budget=4, image="bad")
    for _ in range(200):
        world.operate()
        world.settle(3)
    assert world.serving() == 3
    assert len(world.pods) == 4
    assert any(view.stalled(world.now) for view in world.plan().views)
    assert world.harm == []


def test_a_stalled_roll_out_goes_back_without_replacing_what_never_left() -> None:
    world = rolled_out(prefill=2, decode=2, most=4, budget=6)
    before = {pod.uid for pod in world.pods.values()}
    world.bad_images = {"bad"}
    world.md = small(prefill=2, decode=2, most=4, budget=6, image="bad")
    for _ in range(60):
        world.operate()
        world.settle(3)
    world.md = small(prefill=2, decode=2, most=4, budget=6)
    world.run()
    assert {pod.uid for pod in world.pods.values()} == before


def test_a_stalled_roll_out_goes_on_by_itself_when_its_engines_get_ready_after_all() -> None:
    world = rolled_out(most=1, budget=2)
    world.bad_images = {"two"}
    world.md = small(most=1, budget=2, image="two")
    for _ in range(60):
        world.operate()
        world.settle(3)
    world.bad_images = set()
    world.run()
    assert world.roles() == {"prefill": 1, "decode": 1}
    assert {pod.template for pod in world.pods.values()} == {world.engines[0].template_hash}


def test_old_engines_stand_in_when_more_are_wanted_while_a_roll_out_is_stalled() -> None:
    world = rolled_out(prefill=1, decode=1, most=8, budget=8)
    world.bad_images = {"bad"}
    world.md = small(prefill=1, decode=1, most=8, budget=8, image="bad")
    for _ in range(40):
        world.operate()
        world.settle(3)
    world.md = small(prefill=2, decode=2, most=8, budget=8, image="bad")
    for _ in range(40):
        world.operate()
        world.settle(3)
    assert world.serving() == 4


def test_nothing_old_goes_before_the_new_workload_exists() -> None:
    world = rolled_out(most=1, budget=2)
    world.md = small(most=1, budget=2, image="two")
    assert not [action for action in world.plan().actions if isinstance(action, BeginDrain | SetReplicas)]


def test_pools_with_fixed_roles_are_replaced_in_step() -> None:
    hardware = ("a", "b")
    world = rolled_out(prefill=4, decode=4, most=4, budget=8, hardware=hardware)
    world.md = small(prefill=4, decode=4, most=4, budget=8, hardware=hardware, image="two")
    templates = {engine.template_hash for engine in world.engines}
    for _ in range(100):
        world.operate()
        world.settle(3)
        new = [pod for pod in world.pods.values() if pod.ready and pod.template in templates]
        by_role = [sum(pod.role == role for pod in new) for role in ("prefill", "decode")]
        assert abs(by_role[0] - by_role[1]) <= 1
    assert world.roles() == {"prefill": 4, "decode": 4}
    assert world.harm == []
