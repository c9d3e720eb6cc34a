from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from paceline.api.conditions import ConditionType, Finding, Reason
from paceline.api.v1alpha1 import ConditionStatus, ModelDeploymentStatus
from paceline.api.v1alpha1.status import HISTORY_LENGTH
from paceline.policy.lifecycle.observed import Trouble
from paceline.policy.status import RouterView, Seen, make_status
from tests.api.documents import ROOT, deployment
from tests.policy.lifecycle.world import World, small

NOTHING = ModelDeploymentStatus()
ROUTER = RouterView(desired=2, ready=2, trouble=None, endpoint="http://small-router.default.svc:80")


def running(**changes: object) -> World:
    world = World(small(**changes))  # type: ignore[arg-type]
    world.run()
    return world


def status(
    world: World, previous: ModelDeploymentStatus = NOTHING, *, generation: int = 1, **changes: object
) -> ModelDeploymentStatus:
    seen = Seen(
        views=world.plan().views,
        router=ROUTER,
        revision="abc",
        engine_trouble=(),
        problems=(),
        missing_kinds=(),
        limited=False,
    )
    now = datetime.fromtimestamp(world.now, UTC)
    return make_status(
        world.md, previous, replace(seen, **changes), generation=generation, now=now  # type: ignore[arg-type]
    )  # fmt: skip


def condition(found: ModelDeploymentStatus, kind: ConditionType) -> tuple[str, str]:
    (one,) = [each for each in found.conditions if each.type == kind]
    return one.status.value, one.reason


def message(found: ModelDeploymentStatus, kind: ConditionType) -> str:
    (one,) = [each for each in found.conditions if each.type == kind]
    return one.message


READY = ConditionType.READY


def test_when_everything_is_there_it_is_ready() -> None:
    found = status(running(prefill=2, decode=1))
    assert condition(found, READY) == ("True", "AsDesired")
    assert condition(found, ConditionType.PROGRESSING) == ("False", "AsDesired")
    assert (found.engines, found.ratio) == ("3/3", "2:1")
    assert found.roles is not None
    assert found.roles.prefill is not None
    assert (found.roles.prefill.desired, found.roles.prefill.ready, found.roles.prefill.summary) == (2, 2, "2/2")
    assert found.endpoint == "http://small-router.default.svc:80"


def test_every_condition_says_on_which_generation_it_was_found() -> None:
    found = status(running(), generation=7)
    assert found.observed_generation == 7
    assert {each.observed_generation for each in found.conditions} == {7}
    assert [each.type for each in found.conditions] == [kind.value for kind in ConditionType]


def test_a_second_look_at_the_same_things_says_the_same() -> None:
    world = running()
    first = status(world)
    world.now += 3600
    assert status(world, first) == first


def test_starting_engines_are_counted_where_a_role_lacks_some() -> None:
    world = World(small(prefill=1, decode=2))
    world.operate()
    for workload in list(world.workloads.values()):
        world._replicate(workload)
    found = status(world)
    assert condition(found, READY) == ("False", "EnginesStarting")
    assert found.roles is not None
    assert found.roles.decode is not None
    assert (found.roles.decode.desired, found.roles.decode.starting, found.roles.decode.summary) == (2, 2, "0/2")


def test_what_keeps_engines_from_starting_is_what_ready_says() -> None:
    trouble = Trouble(Reason.UNSCHEDULABLE, "0/3 nodes are available")
    found = status(World(small()), engine_trouble=(trouble,))
    assert condition(found, READY) == ("False", "Unschedulable")
    assert "0/3 nodes" in message(found, READY)


def test_with_fewer_engines_than_asked_for_it_is_available_but_not_ready() -> None:
    world = running(prefill=1, decode=2)
    world.crash(next(name for name, pod in world.pods.items() if pod.role == "prefill"))
    world.operate()
    found = status(world)
    assert condition(found, READY)[0] == "False"
    assert condition(found, ConditionType.AVAILABLE) == ("True", "AsDesired")


def test_engines_that_do_both_count_for_either_role() -> None:
    pool = {"minReplicas": 2, "maxReplicas": 2, "accelerator": {"count": 1}}
    world = World(deployment(pools={"mode": "Aggregated", "aggregated": pool}))
    world.run()
    found = status(world)
    assert condition(found, READY) == ("True", "AsDesired")
    assert (found.engines, found.ratio) == ("2/2", None)
    world.crash(min(world.pods))
    found = status(world)
    assert condition(found, ConditionType.PREFILL_READY) == ("False", "EnginesStarting")
    assert condition(found, ConditionType.DECODE_READY) == ("False", "EnginesStarting")
    assert message(found, READY) == "1 of 2 engines are ready."


def test_without_a_router_nothing_is_available() -> None:
    found = status(running(), router=replace(ROUTER, ready=0))
    assert condition(found, ConditionType.AVAILABLE) == ("False", "RoutersStarting")
    assert condition(found, READY) == ("False", "RoutersStarting")


def test_a_roll_out_is_told_while_it_lasts() -> None:
    world = running()
    world.md = small(image="two")
    world.operate()
    found = status(world)
    assert condition(found, ConditionType.PROGRESSING) == ("True", "RollingOut")
    assert condition(found, READY) == ("False", "RollingOut")
    assert condition(found, ConditionType.AVAILABLE)[0] == "True"


def test_a_roll_out_that_has_stopped_names_its_engines_and_what_to_do() -> None:
    world = running()
    world.bad_images = {"bad"}
    world.md = small(image="bad")
    for _ in range(40):
        world.operate()
        world.settle(3)
    found = status(world)
    assert condition(found, ConditionType.PROGRESSING) == ("False", "RolloutStalled")
    said = message(found, ConditionType.PROGRESSING)
    assert "within 60 s" in said
    assert "Change the spec" in said
    assert any(name in said for name in world.pods)


def test_engines_past_their_start_deadline_are_named() -> None:
    world = World(small(), bad_images={"one"})
    world.operate()
    world.settle(1)
    world.settle(60)
    found = status(world)
    assert condition(found, READY) == ("False", "StartDeadlineExceeded")
    assert condition(found, ConditionType.PROGRESSING) == ("False", "StartDeadlineExceeded")


def test_what_the_operator_ran_into_comes_before_what_follows_from_it() -> None:
    problem = Finding(ConditionType.PROGRESSING, ConditionStatus.FALSE, Reason.FORBIDDEN, "may not apply services")
    found = status(World(small()), problems=(problem,))
    assert condition(found, READY) == ("False", "Forbidden")
    assert condition(found, ConditionType.PROGRESSING) == ("False", "Forbidden")


def test_kinds_that_the_cluster_lacks_are_named_and_no_reason_not_to_be_ready() -> None:
    found = status(running(), missing_kinds=("monitoring.coreos.com/v1/PodMonitor",))
    assert condition(found, ConditionType.PROGRESSING) == ("False", "KindMissing")
    assert "PodMonitor" in message(found, ConditionType.PROGRESSING)
    assert condition(found, READY) == ("True", "AsDesired")


def test_an_exhausted_budget_is_a_limit() -> None:
    assert condition(status(running(), limited=True), ConditionType.SCALING_LIMITED) == ("True", "GpuBudgetReached")


def test_changes_of_the_counts_are_remembered_newest_first_and_not_for_ever() -> None:
    world = running()
    found = status(world)
    assert found.scaling is None
    for number in range(HISTORY_LENGTH + 3):
        world.md = small(prefill=1 + number % 2, decode=2 - number % 2)
        found = status(world, found)
    assert found.scaling is not None
    assert len(found.scaling.history) == HISTORY_LENGTH
    newest = found.scaling.history[0]
    assert (newest.before.prefill, newest.after.prefill) == (2, 1)


@pytest.mark.parametrize("count", [2, 5])
def test_messages_name_a_few_engines_and_count_the_rest(count: int) -> None:
    world = World(small(prefill=1, decode=count - 1), bad_images={"one"})
    world.operate()
    world.settle(1)
    world.settle(60)
    said = message(status(world), ConditionType.PROGRESSING)
    assert ("more" in said) == (count > 3)


def test_every_condition_and_every_reason_is_documented() -> None:
    page = (ROOT / "docs" / "reference" / "conditions.md").read_text()
    words = [*ConditionType, *Reason]
    assert [word.value for word in words if f"`{word.value}`" not in page] == []
