"""Roles and gates: labels follow counts, restart nothing, and come before an engine serves."""

from __future__ import annotations

from paceline.api.wire import Role
from paceline.policy.lifecycle.actions import OpenGate, SetRole
from tests.policy.lifecycle.world import World, small


def test_an_engine_serves_as_soon_as_it_is_ready_and_has_a_role() -> None:
    world = World(small())
    world.operate()
    for workload in list(world.workloads.values()):
        world._replicate(workload)
    assert world.operate() == ()
    world.settle()
    actions = world.operate()
    first_gate = next(index for index, action in enumerate(actions) if isinstance(action, OpenGate))
    assert all(isinstance(action, SetRole) for action in actions[:first_gate])
    assert world.roles() == {"prefill": 1, "decode": 1}


def test_other_counts_change_labels_and_keep_every_pod() -> None:
    world = World(small(prefill=1, decode=3))
    world.run()
    before = {pod.uid for pod in world.pods.values()}
    world.md = small(prefill=3, decode=1)
    actions = world.operate()
    assert [(action.before, action.role) for action in actions if isinstance(action, SetRole)] == [
        (Role.DECODE, Role.PREFILL)
    ] * 2
    assert len(actions) == 2
    assert {pod.uid for pod in world.pods.values()} == before


def test_a_pod_that_dies_is_replaced_and_its_role_given_again() -> None:
    world = World(small(prefill=1, decode=1))
    world.run()
    world.lose(next(name for name, pod in world.pods.items() if pod.role is Role.PREFILL))
    world.operate()
    assert world.roles() == {"both": 1}  # a slow answer is better than none
    world.run()
    assert world.roles() == {"prefill": 1, "decode": 1}


def test_fixed_roles_are_put_back_when_somebody_changes_them() -> None:
    world = World(small(hardware=("a", "b")))
    world.run()
    changed = min(world.pods)
    role = world.pods[changed].role
    world._edit(changed, role=Role.BOTH)
    assert world.operate() == (SetRole(changed, Role.BOTH, role),)


def test_each_revision_is_a_fleet_of_its_own() -> None:
    world = World(small(prefill=2, decode=2, most=4))
    world.run()
    world.md = small(prefill=2, decode=2, most=4, image="two")
    world.operate()
    world.settle()
    world.operate()
    # One engine of the new revision can't exchange blocks with the old ones: it serves both.
    assert world.roles() == {"prefill": 2, "decode": 2, "both": 1}
