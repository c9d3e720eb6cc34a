"""Orders of somebody who plans: roles stay unless they are named, the named ones go first, and a restart begins with
what is there.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.api.v1alpha1 import ModelDeploymentStatus
from paceline.api.v1alpha1.scaling import ScaleToZero, ScaleToZeroPolicy, Scaling
from paceline.api.v1alpha1.status import Roles, RoleStatus
from paceline.api.wire import Role
from paceline.policy.lifecycle.actions import BeginDrain, SetReplicas, SetRole
from paceline.policy.lifecycle.orders import Orders, Situation, kept_roles, standing_counts
from paceline.policy.lifecycle.plan import Plan, plan_engines
from paceline.policy.roles import EngineRole
from tests.policy.lifecycle.world import World, small

P, D, B = Role.PREFILL, Role.DECODE, Role.BOTH


def plan(world: World, orders: Orders) -> Plan:
    idle = {pod.name for pod in world.pods.values() if pod.asked_to_drain and pod.name not in world.busy}
    return plan_engines(
        world.md,
        world.engines,
        orders.counts,
        workloads=tuple(world.workloads.values()),
        pods=tuple(world.pods.values()),
        now=world.now,
        idle=frozenset(idle),
        orders=orders,
    )


def run(world: World, orders: Orders, passes: int = 60) -> None:
    quiet = 0
    for _ in range(passes):
        actions = plan(world, orders).actions
        for action in actions:
            world.do(action)
        world.settle()
        quiet = 0 if actions else quiet + 1
        if quiet >= 3:
            return
    raise AssertionError("no end")


def standing(world: World, status: ModelDeploymentStatus | None = None, **totals: int) -> dict[Role, int]:
    situation = Situation(
        md=world.md,
        pools=[engine.pool for engine in world.engines],
        workloads=tuple(world.workloads.values()),
        pods=tuple(world.pods.values()),
        status=status or ModelDeploymentStatus(),
        now=world.now,
    )
    return standing_counts(situation, totals=totals or None)


def said(prefill: int, decode: int) -> ModelDeploymentStatus:
    return ModelDeploymentStatus(roles=Roles(prefill=RoleStatus(desired=prefill), decode=RoleStatus(desired=decode)))


def settled(prefill: int, decode: int, *, least: int = 1) -> World:
    world = World(small(prefill=least, decode=least))
    run(world, Orders({P: prefill, D: decode}, keeps_roles=True))
    assert world.roles() == {"prefill": prefill, "decode": decode}
    return world


def test_engines_keep_their_roles_whatever_the_counts_until_they_are_named() -> None:
    world = settled(1, 3)
    assert plan(world, Orders({P: 3, D: 1}, keeps_roles=True)).actions == ()
    one = next(name for name, pod in world.pods.items() if pod.role is D)
    actions = plan(world, Orders({P: 3, D: 1}, keeps_roles=True, roles={one: P})).actions
    assert actions == (SetRole(one, D, P),)


def test_the_engine_that_is_named_is_the_one_that_drains() -> None:
    world = settled(1, 3)
    for name in [name for name, pod in world.pods.items() if pod.role is D]:
        actions = plan(world, Orders({P: 1, D: 2}, keeps_roles=True, leaving=frozenset({name}))).actions
        assert [action.pod for action in actions if isinstance(action, BeginDrain)] == [name]


def test_an_engine_that_is_named_stays_where_none_is_too_many() -> None:
    world = settled(1, 2)
    name = next(name for name, pod in world.pods.items() if pod.role is D)
    assert plan(world, Orders({P: 1, D: 2}, keeps_roles=True, leaving=frozenset({name}))).actions == ()


def test_one_that_never_got_ready_is_replaced_although_none_is_too_many() -> None:
    world = settled(1, 1)
    world.bad_images = {"one"}
    orders = Orders({P: 1, D: 2}, keeps_roles=True)
    for _ in range(4):
        for action in plan(world, orders).actions:
            world.do(action)
        world.settle()
    (late,) = [pod for pod in world.pods.values() if not pod.containers_ready]
    world.bad_images = set()
    run(world, Orders({P: 1, D: 2}, keeps_roles=True, leaving=frozenset({late.name})))
    assert late.name not in world.pods
    assert world.roles() == {"prefill": 1, "decode": 2}


def test_a_role_that_nobody_serves_any_more_is_given_at_once() -> None:
    world = settled(1, 2)
    world.lose(next(name for name, pod in world.pods.items() if pod.role is P))
    for action in plan(world, Orders({P: 1, D: 2}, keeps_roles=True)).actions:
        world.do(action)
    assert world.roles() == {"prefill": 1, "decode": 1}


def test_zero_of_everything_drains_everything() -> None:
    world = settled(1, 2)
    run(world, Orders({P: 0, D: 0}, keeps_roles=True))
    assert world.pods == {}
    assert world.harm == []


@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (3, 1), (1, 4)])
def test_a_new_operator_holds_what_is_there_without_a_word_of_the_status(prefill: int, decode: int) -> None:
    assert standing(settled(prefill, decode)) == {P: prefill, D: decode}


def test_a_new_operator_begins_with_the_minima_where_nothing_is() -> None:
    assert standing(World(small(prefill=2, decode=3))) == {P: 2, D: 3}


def test_a_deployment_that_sleeps_goes_on_sleeping_when_another_operator_takes_over() -> None:
    world = settled(1, 1)
    run(world, Orders({P: 0, D: 0}, keeps_roles=True))
    assert standing(world) == {P: 1, D: 1}, "it may not sleep"
    scaling = Scaling(scale_to_zero=ScaleToZero(policy=ScaleToZeroPolicy.WHEN_IDLE))
    world.md = world.md.model_copy(update={"spec": world.md.spec.model_copy(update={"scaling": scaling})})
    assert standing(world) == {P: 0, D: 0}


def test_bounds_of_the_spec_go_before_what_is_there() -> None:
    world = settled(1, 4)
    world.md = small(prefill=2, decode=1, most=3)
    assert standing(world) == {P: 2, D: 3}


def test_an_engine_that_is_to_be_replaced_counts_and_one_that_goes_for_good_does_not() -> None:
    world = settled(1, 2)
    name = next(name for name, pod in world.pods.items() if pod.role is D)
    world._edit(name, asked_to_drain=True, drain_started=world.now)
    assert standing(world, said(1, 2)) == {P: 1, D: 2}
    assert standing(world, said(1, 1)) == {P: 1, D: 1}


def test_while_engines_are_replaced_the_status_knows_how_many_there_should_be() -> None:
    world = settled(1, 2)
    world.md = small(image="two")
    for action in plan(world, Orders({P: 1, D: 2}, keeps_roles=True)).actions:
        world.do(action)
    assert len(world.workloads) == 2
    assert standing(world, said(1, 2)) == {P: 1, D: 2}


def test_a_number_that_was_given_by_hand_takes_the_place_of_the_one_that_stood() -> None:
    world = settled(1, 2)
    assert standing(world, said(1, 2), flexible=5) == {P: 2, D: 3}
    assert sum(standing(world, said(1, 2), flexible=2).values()) == 2


counts = st.tuples(st.integers(1, 4), st.integers(1, 4))


@given(st.lists(st.tuples(counts, st.integers(0, 6)), min_size=1, max_size=5), st.integers(0, 99))
def test_an_operator_that_is_killed_between_any_two_writes_of_any_order_goes_on_within_it(
    orders: list[tuple[tuple[int, int], int]], seed: int
) -> None:
    world = settled(2, 2)
    dice = random.Random(seed)
    before = 4
    for (prefill, decode), killed_after in orders:
        names = [name for name, pod in world.pods.items() if pod.role is D]
        order = Orders(
            {P: prefill, D: decode},
            keeps_roles=True,
            roles={dice.choice(names): P} if len(names) > 1 else {},
            leaving=frozenset(dice.sample(sorted(world.pods), k=1)) if prefill + decode < before else frozenset(),
        )
        for action in plan(world, order).actions[:killed_after]:
            world.do(action)
        wanted = prefill + decode
        found = sum(standing(world).values())
        assert min(wanted, before) <= found <= max(wanted, before)
        # The next operator knows nothing of the order, holds what it finds, and nothing is in its way.
        run(world, Orders(standing(world), keeps_roles=True))
        assert world.harm == []
        before = world.serving()


fleets = st.lists(st.sampled_from([P, D, B, None]), max_size=6)


@given(fleets, counts, st.dictionaries(st.integers(0, 5).map(lambda n: f"e{n}"), st.sampled_from([P, D]), max_size=3))
def test_roles_that_are_kept_serve_every_wanted_role_as_far_as_engines_go(
    roles: list[Role | None], wanted: tuple[int, int], changes: dict[str, Role]
) -> None:
    fleet = [EngineRole(f"e{number}", role) for number, role in enumerate(roles)]
    found = kept_roles(fleet, {P: wanted[0], D: wanted[1]}, changes)
    assert set(found) == {one.name for one in fleet}
    served = set(found.values())
    if len(fleet) >= 2:
        assert served == {P, D}
    elif fleet:
        assert served == {B}
    again = [EngineRole(name, role) for name, role in found.items()]
    assert kept_roles(again, {P: wanted[0], D: wanted[1]}, {}) == found


def test_nothing_wanted_leaves_roles_as_they_are() -> None:
    fleet = [EngineRole("e0", P), EngineRole("e1", D)]
    assert kept_roles(fleet, {P: 0, D: 0}, {}) == {"e0": P, "e1": D}


def test_a_resize_is_one_write() -> None:
    world = settled(1, 1)
    (action,) = plan(world, Orders({P: 2, D: 2}, keeps_roles=True)).actions
    assert isinstance(action, SetReplicas)
    assert (action.before, action.replicas) == (2, 4)
