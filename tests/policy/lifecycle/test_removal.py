"""How an engine leaves: told, waited for, out of service, removed; and the one that was chosen is the one that goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from paceline.policy.lifecycle.actions import Action, BeginDrain, DeletePod, FinishDrain, OpenGate, SetReplicas
from paceline.policy.lifecycle.removal import WORKLOADS_LEARN_SECONDS
from tests.policy.lifecycle.world import World, small


def world_of(prefill: int, decode: int, budget: int | None = None) -> World:
    world = World(small(prefill=prefill, decode=decode, budget=budget))
    world.run()
    return world


def names(actions: Iterable[Action]) -> list[str]:
    return [type(action).__name__ for action in actions]


def test_the_steps_come_in_the_order_of_the_design_and_wait_for_one_another() -> None:
    world = world_of(1, 2)
    world.md = small(prefill=1, decode=1)
    (begin,) = world.operate()
    assert isinstance(begin, BeginDrain)
    world.busy.add(begin.pod)
    for _ in range(5):
        world.settle()
        assert world.operate() == ()
    world.busy.clear()
    (finish,) = world.operate()
    assert finish == FinishDrain(begin.pod, overdue=False)
    assert world.operate() == (), "the workload may not have seen yet that it is out of service"
    assert world.plan().look_again_seconds is not None
    world.settle(WORKLOADS_LEARN_SECONDS)
    (lower,) = world.operate()
    assert isinstance(lower, SetReplicas)
    assert (lower.before, lower.replicas) == (3, 2)
    assert world.operate() == ()  # a second look before the workload has acted
    world.settle()
    assert world.pods[begin.pod].deleting
    world.run()
    assert world.roles() == {"prefill": 1, "decode": 1}


def test_an_engine_of_the_role_that_has_most_to_spare_leaves() -> None:
    world = world_of(2, 1)
    world.md = small(prefill=1, decode=1)
    (begin,) = world.operate()
    assert isinstance(begin, BeginDrain)
    assert world.pods[begin.pod].role == "prefill"


def test_engines_that_do_not_work_leave_first() -> None:
    world = world_of(1, 2)
    broken = max(name for name, pod in world.pods.items() if pod.role == "prefill")
    world.crash(broken)
    world.md = small(prefill=1, decode=1)
    drained = [action.pod for action in world.plan().actions if isinstance(action, BeginDrain)]
    assert drained == [broken]


def test_routers_get_time_to_learn_before_an_engine_counts_as_idle() -> None:
    world = world_of(1, 2)
    world.md = small(prefill=1, decode=1)
    world.operate()
    assert world.operate() == ()
    world.now += 2
    assert names(world.operate()) == ["FinishDrain"]


def test_a_drain_that_takes_too_long_ends_and_is_reported() -> None:
    world = world_of(1, 2)
    world.md = small(prefill=1, decode=1)
    (begin,) = world.operate()
    assert isinstance(begin, BeginDrain)
    world.busy.add(begin.pod)
    world.now += 30
    assert world.operate() == (FinishDrain(begin.pod, overdue=True),)


def test_an_engine_that_never_served_is_not_waited_for() -> None:
    world = World(small(prefill=1, decode=2))
    world.operate()
    for workload in list(world.workloads.values()):
        world._replicate(workload)
    world.md = small(prefill=1, decode=1)
    assert names(world.operate()) == ["BeginDrain"]
    assert names(world.operate()) == ["FinishDrain"]


def test_when_the_workload_took_another_unready_pod_the_drained_one_is_deleted_and_replaced() -> None:
    world = world_of(1, 2)
    world.md = small(prefill=1, decode=1)
    (begin,) = world.operate()
    world.now += 3
    world.operate()
    world.now += WORKLOADS_LEARN_SECONDS
    world.operate()  # replicas are lowered to 2
    assert isinstance(begin, BeginDrain)
    other = next(name for name in world.pods if name != begin.pod)
    world.lose(other)
    world.settle()
    assert "DeletePod" in names(world.operate())
    world.run()
    assert world.roles() == {"prefill": 1, "decode": 1}


def test_an_engine_that_somebody_drains_by_hand_is_drained_and_replaced() -> None:
    world = world_of(1, 1)
    chosen = min(world.pods)
    world.pods[chosen] = replace(world.pods[chosen], asked_to_drain=True)
    assert names(world.operate())[0] == "BeginDrain"  # writes down when it began
    world.now += 3
    assert FinishDrain(chosen, overdue=False) in world.operate()
    world.now += WORKLOADS_LEARN_SECONDS
    assert [action.pod for action in world.operate() if isinstance(action, DeletePod)] == [chosen]
    world.run()
    assert chosen not in world.pods
    assert world.roles() == {"prefill": 1, "decode": 1}


def test_a_drain_is_not_called_off_but_its_engine_is_replaced_when_it_is_wanted_again() -> None:
    world = world_of(1, 2)
    world.md = small(prefill=1, decode=1)
    (begin,) = world.operate()
    world.md = small(prefill=1, decode=2)
    world.run()
    assert isinstance(begin, BeginDrain)
    assert begin.pod not in world.pods
    assert world.roles() == {"prefill": 1, "decode": 2}
    assert world.harm == []


def test_a_draining_engine_gets_no_role_and_no_open_gate() -> None:
    world = world_of(1, 2)
    world.md = small(prefill=1, decode=1)
    (begin,) = world.operate()
    assert isinstance(begin, BeginDrain)
    world._edit(begin.pod, role=None, serving=None)
    assert not [action for action in world.plan().actions if isinstance(action, OpenGate)]


def test_engines_of_a_workload_that_somebody_deleted_hold_accelerators_until_they_are_gone() -> None:
    world = world_of(2, 2, budget=4)
    (name,) = world.workloads
    old = set(world.pods)
    world.delete_workload(name)
    held = []
    for _ in range(40):
        world.operate()
        world.settle()
        held.append(len(world.pods))
    assert max(held) == 4
    assert not old & set(world.pods)
    assert world.roles() == {"prefill": 2, "decode": 2}
    assert world.harm == []


def test_engines_that_were_orphaned_on_purpose_are_kept() -> None:
    world = world_of(1, 1)
    (workload,) = world.workloads.values()
    old = set(world.pods)
    world.now += 1
    world.workloads[workload.name] = replace(workload, uid="adopts", created=world.now)
    world.owners = dict.fromkeys(world.pods, "adopts")
    assert world.operate() == ()
    world.now += 60
    assert world.operate() == ()
    assert set(world.pods) == old
