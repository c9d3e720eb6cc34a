"""What the status says of engines that stand out, as their routers have found."""

from __future__ import annotations

from paceline.api.conditions import Reason
from paceline.api.v1alpha1 import ConditionStatus
from paceline.planner.pages import EngineGauges, RouterPage
from paceline.planner.source import Reading
from paceline.planner.wellness import wellness

WELL = EngineGauges()
OUT = EngineGauges(stands_out="repetition", suspended=True)
WATCHED = EngineGauges(stands_out="slow")


def reading(**routers: dict[str, EngineGauges]) -> Reading:
    old = RouterPage(at=0.0, engines={"old": OUT})
    return Reading(pages={name: (old, RouterPage(at=1.0, engines=engines)) for name, engines in routers.items()})


def test_an_engine_without_work_is_named_with_the_reason() -> None:
    found = wellness(reading(r1={"a": WELL, "b": OUT}, r2={"a": WELL, "b": WELL}), ["r1", "r2"])
    assert (found.status, found.reason) == (ConditionStatus.FALSE, Reason.ENGINE_STANDS_OUT)
    assert found.message == "No new work for now, because they stand out among their siblings: b (repetition)."


def test_one_that_keeps_its_work_is_named_apart_unless_another_router_gives_it_none() -> None:
    found = wellness(reading(r1={"a": WATCHED, "b": WATCHED}, r2={"b": OUT}), ["r1", "r2"])
    assert found.message == (
        "No new work for now, because they stand out among their siblings: b (repetition). "
        "Stand out among their siblings and keep their work: a (slow)."
    )


def test_all_are_well_when_no_router_says_otherwise() -> None:
    found = wellness(reading(r1={"a": WELL}), ["r1"])
    assert (found.status, found.reason) == (ConditionStatus.TRUE, Reason.AS_DESIRED)


def test_routers_that_are_gone_are_not_asked_and_without_a_page_nobody_knows() -> None:
    assert wellness(reading(gone={"a": OUT}), ["r1"]).status is ConditionStatus.UNKNOWN


def test_a_message_names_five_engines_at_most() -> None:
    found = wellness(reading(r1={f"e{number}": OUT for number in range(9)}), ["r1"])
    assert found.message.endswith("e4 (repetition) and 4 more.")
