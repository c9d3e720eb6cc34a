"""Who plans on this machine, and what is written down for ``paceline explain``."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from paceline.api.conditions import Reason
from paceline.api.v1alpha1.scaling import ScalingMode
from paceline.api.wire import Role
from paceline.clock import FasterClock, VirtualClock
from paceline.local.cluster import LocalCluster
from paceline.local.plan import with_scaling
from paceline.local.planning import LocalPlanner, as_document, is_planned
from paceline.simulator.cluster import Targets
from tests.api.documents import sample
from tests.planner.world import World, elastic, traffic


@pytest.mark.parametrize(
    ("name", "profile", "fixed", "planned"),
    [
        ("elastic", "qwen3-32b-h100-tp2", False, True),
        ("elastic", None, False, True),
        ("elastic", "qwen3-32b-h100-tp2", True, False),
        ("cpu", None, False, False),
    ],
    ids=[
        "emulated",
        "real on known hardware",
        "the user has said how many",
        "real on hardware of which nothing is known",
    ],
)
def test_somebody_plans_where_engines_are_known_and_nobody_has_fixed_their_number(
    name: str, profile: str | None, fixed: bool, planned: bool
) -> None:
    md = with_scaling(sample(name), ScalingMode.AUTO)
    assert is_planned(md, profile=profile, fixed=fixed) is planned
    assert not is_planned(with_scaling(md, ScalingMode.OFF), profile=profile, fixed=fixed)


def test_what_is_written_down_has_the_shape_of_a_status() -> None:
    world = World(elastic(), traffic(120.0, rate=lambda _: 9.0), initial=Targets(1, 1))
    world.run()
    document = as_document(world.md, world.planner, world.steps[-1])
    assert document["status"]["conditions"][0]["reason"] == "MetricsSeen"
    assert document["status"]["roles"]["prefill"]["desired"] == world.planner.counts["prefill"]  # type: ignore[index]
    assert document["status"]["scaling"]["history"][0]["reason"]
    assert document["now"] == list(world.steps[-1].words)


def test_what_hinders_it_is_written_down() -> None:
    load = traffic(60.0, rate=lambda _: 1.0)
    world = World(elastic(), load, initial=Targets(1, 1), blind=lambda _: Reason.METRICS_UNREACHABLE)
    world.run()
    (condition,) = as_document(world.md, world.planner, world.steps[-1])["status"]["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "MetricsUnreachable")


def test_a_report_can_say_what_the_planner_made_of_the_engines(tmp_path: Path) -> None:
    cluster = SimpleNamespace(plan=SimpleNamespace(wanted={"flexible": {Role.PREFILL: 1, Role.DECODE: 1}}))
    planners = [
        LocalPlanner(
            with_scaling(sample("elastic"), mode), cast("LocalCluster", cluster), VirtualClock(), speed=1,
            profile="qwen3-32b-h100-tp2", folder=tmp_path, said=lambda _: None,
        )
        for mode in (ScalingMode.AUTO, ScalingMode.RECOMMEND)
    ]  # fmt: skip
    assert [planner.changed_to() for planner in planners] == [None, None]
    for planner in planners:
        planner.steps.append((10.0, {Role.PREFILL: 2, Role.DECODE: 1}))
    assert [planner.changed_to() for planner in planners] == [{Role.PREFILL: 2, Role.DECODE: 1}, None]
    # Back to where it was: there is nothing to say.
    planners[0].steps.append((20.0, {Role.PREFILL: 1, Role.DECODE: 1}))
    assert planners[0].changed_to() is None


def test_the_clock_of_faster_engines_runs_as_much_faster() -> None:
    clock = VirtualClock(epoch=1000.0)
    faster = FasterClock(clock, 4.0)
    clock.advance(2.5)
    assert (faster.monotonic(), faster.wall()) == (10.0, 1010.0)
