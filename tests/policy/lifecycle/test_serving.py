"""Roles and gates: labels follow counts, restart nothing, and come before an engine serves."""

from __future__ import annotations

from paceline.api.wire import Role
from paceline.policy.lifecycle.actions import Action, BeginRoleChange, OpenGate, SetRole
from paceline.policy.lifecycle.orders import Orders
from paceline.policy.lifecycle.plan import plan_engines
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


def patient(prefill: int, decode: int) -> World:
    """Engines that finish what they have before they change their role; all of them are busy."""
    world = World(small(prefill=1, decode=3, drain_first=True))
    world.run()
    world.busy = set(world.pods)
    world.md = small(prefill=prefill, decode=decode, drain_first=True)
    return world


def test_an_engine_that_is_to_drain_first_takes_its_role_when_it_has_nothing_left() -> None:
    world = patient(prefill=2, decode=2)
    (begun,) = world.operate()
    assert begun == BeginRoleChange(begun.pod, Role.DECODE, Role.PREFILL)
    assert world.plan().look_again_seconds is not None
    world.settle(5.0)
    assert world.operate() == ()
    assert world.roles() == {"prefill": 1, "decode": 2}
    world.busy.discard(begun.pod)
    assert world.operate() == (SetRole(begun.pod, Role.DECODE, Role.PREFILL),)
    assert world.roles() == {"prefill": 2, "decode": 2}
    assert world.operate() == ()


def test_nothing_in_flight_is_believed_only_when_routers_have_heard_of_it() -> None:
    world = patient(prefill=2, decode=2)
    world.busy.clear()
    world.operate()
    assert world.operate() == ()
    world.settle(3.0)
    assert [type(action) for action in world.operate()] == [SetRole]


def test_an_engine_that_does_not_finish_takes_its_role_after_the_drain_time() -> None:
    world = patient(prefill=2, decode=2)
    world.operate()
    world.settle(29.0)
    assert world.operate() == ()
    world.settle(2.0)
    assert [type(action) for action in world.operate()] == [SetRole]


def test_a_role_that_is_not_wanted_any_more_is_not_taken_and_the_engine_goes_on() -> None:
    world = patient(prefill=2, decode=2)
    (begun,) = world.operate()
    world.md = small(prefill=1, decode=3, drain_first=True)
    assert world.operate() == (SetRole(begun.pod, Role.DECODE, Role.DECODE),)
    assert world.roles() == {"prefill": 1, "decode": 3}


def test_a_role_that_nobody_serves_waits_for_no_drain() -> None:
    world = patient(prefill=1, decode=3)
    world.lose(next(name for name, pod in world.pods.items() if pod.role is Role.PREFILL))
    assert [type(action) for action in world.operate() if not isinstance(action, OpenGate)] == [SetRole]


def test_the_setting_may_change_while_an_engine_waits() -> None:
    world = patient(prefill=2, decode=2)
    (begun,) = world.operate()
    world.md = small(prefill=2, decode=2)
    assert world.operate() == (SetRole(begun.pod, Role.DECODE, Role.PREFILL),)


def keeping(world: World) -> tuple[Action, ...]:
    """A pass in which engines keep the roles that they have, as where somebody plans or only recommends."""
    heads = list(world.pods.values())
    counts = {role: sum(pod.aim is role for pod in heads) for role in (Role.PREFILL, Role.DECODE)}
    actions = plan_engines(
        world.md, world.engines, counts, workloads=tuple(world.workloads.values()), pods=heads, now=world.now,
        orders=Orders(counts, keeps_roles=True),
    ).actions  # fmt: skip
    for action in actions:
        world.do(action)
    return actions


def asked_by_hand(*, drain_first: bool) -> tuple[World, str]:
    """Somebody wrote the next role of a decode engine on its pod."""
    world = World(small(prefill=1, decode=3, drain_first=drain_first))
    world.run()
    asked = min(name for name, pod in world.pods.items() if pod.role is Role.DECODE)
    world._edit(asked, next_role=Role.PREFILL)
    return world, asked


def test_a_role_that_somebody_asked_for_by_hand_is_taken_and_kept() -> None:
    world, asked = asked_by_hand(drain_first=False)
    assert keeping(world) == (SetRole(asked, Role.DECODE, Role.PREFILL),)
    assert world.roles() == {"prefill": 2, "decode": 2}
    assert keeping(world) == ()


def test_a_role_that_somebody_asked_for_by_hand_waits_for_the_drain_too() -> None:
    world, asked = asked_by_hand(drain_first=True)
    assert keeping(world) == (BeginRoleChange(asked, Role.DECODE, Role.PREFILL),)
    assert keeping(world) == ()
    world.settle(31.0)
    assert keeping(world) == (SetRole(asked, Role.DECODE, Role.PREFILL),)


def test_a_role_that_somebody_asked_for_by_hand_is_not_taken_where_the_spec_alone_says_who_serves_what() -> None:
    world, asked = asked_by_hand(drain_first=False)
    assert world.operate() == (SetRole(asked, Role.DECODE, Role.DECODE),)
    assert world.roles() == {"prefill": 1, "decode": 3}
