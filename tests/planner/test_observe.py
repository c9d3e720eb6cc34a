"""What the planner sees is what came in between pages, whatever order, restarts and gaps they have."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.api.conditions import Reason
from paceline.api.wire import EngineState, Role
from paceline.planner.increments import arrivals_of, completions_of, edges_of, increments
from paceline.planner.observe import EnginePod, Seen, observe
from paceline.planner.pages import EngineGauges, RouterPage
from paceline.planner.source import Blind, Reading
from paceline.policy.scaling.observation import Measured, Observation
from tests.planner.pages import FakeRouter

SCRAPE = 10.0


def look(
    pages: dict[str, Sequence[RouterPage]],
    *,
    now: float,
    routers: Sequence[str] = ("r",),
    engines: Sequence[EnginePod] = (),
    window: float = 300.0,
    **reading: object,
) -> Seen:
    return observe(
        Reading(pages=pages, **reading),  # type: ignore[arg-type]
        engines, routers, now=now, window_seconds=window, measured=Measured(),
    )  # fmt: skip


def requests(observation: Observation) -> int:
    return sum(cell.count for interval in observation.arrivals for cell in interval.cells)


def test_each_scrape_gives_what_came_since_the_one_before() -> None:
    router = FakeRouter()
    pages = [router.page(0.0)]
    router.arrive(1000, 200, times=3)
    pages.append(router.page(10.0))
    pages.append(router.page(20.0))
    router.arrive(50)
    pages.append(router.page(30.0))
    seen = look({"r": pages}, now=31.0)
    assert seen.blind is None
    intervals = seen.observation.arrivals
    assert [(one.start, one.end, sum(cell.count for cell in one.cells)) for one in intervals] == [
        (0.0, 10.0, 3),
        (10.0, 20.0, 0),
        (20.0, 30.0, 1),
    ]
    assert sum(cell.uncached * cell.count for cell in intervals[0].cells) == 3000


def test_the_window_begins_with_the_scrape_before_it() -> None:
    router = FakeRouter()
    pages = []
    for number in range(100):
        router.arrive(100)
        pages.append(router.page(number * SCRAPE))
    observation = look({"r": pages}, now=995.0, window=60.0).observation
    assert observation.arrivals[0].start == 930.0
    assert observation.arrivals[-1].end == 990.0
    assert requests(observation) == 6


def test_a_counter_that_fell_was_reset_and_all_it_counts_is_new() -> None:
    before, after = FakeRouter(), FakeRouter()
    before.arrive(100, times=500)
    after.arrive(100, times=7)
    observation = look({"r": [before.page(0.0), after.page(10.0)]}, now=11.0).observation
    assert requests(observation) == 7


def test_what_a_router_counted_before_it_was_first_seen_is_left_out() -> None:
    old, new = FakeRouter(), FakeRouter()
    new.arrive(100, times=100_000)
    pages = {"r": [old.page(at) for at in (0.0, 10.0, 20.0)], "s": [new.page(20.0)]}
    assert requests(look(pages, now=21.0, routers=("r", "s")).observation) == 0


def test_routers_that_are_read_at_different_times_add_up() -> None:
    one, other = FakeRouter(), FakeRouter()
    mine, theirs = [], []
    for number in range(10):
        mine.append(one.page(10.0 * number))
        theirs.append(other.page(10.0 * number + 4.0))
        one.arrive(100, times=2)
        other.arrive(1000, times=3)
    observation = look({"r": mine, "s": theirs}, now=96.0, routers=("r", "s")).observation
    assert requests(observation) == 9 * 2 + 8 * 3


def test_a_router_that_is_gone_still_counts_for_the_time_it_was_there() -> None:
    there, gone = FakeRouter(), FakeRouter()
    pages, before = [], []
    for number in range(6):
        pages.append(there.page(10.0 * number))
        if number < 3:
            before.append(gone.page(10.0 * number))
            gone.arrive(10)
    seen = look({"r": pages, "gone": before}, now=55.0)
    assert seen.blind is None
    assert requests(seen.observation) == 2


def test_answers_are_known_by_the_length_of_their_prompts() -> None:
    router = FakeRouter()
    pages = [router.page(0.0)]
    router.answer(1000, 30, times=2)
    router.answer(1010, 60)
    router.answer(10, 5)
    pages.append(router.page(10.0))
    cells = look({"r": pages}, now=11.0).observation.completions[0].cells
    assert [(cell.prompt, cell.count, cell.outputs) for cell in cells] == [(10, 1, 5), (1003, 3, 120)]


def test_attainment_is_unknown_until_something_has_ended() -> None:
    router = FakeRouter()
    pages = [router.page(0.0), router.page(10.0)]
    assert look({"r": pages}, now=11.0).observation.attainment is None
    router.answer(100, 10, times=3)
    router.answer(100, 10, ttft=False)
    pages.append(router.page(20.0))
    found = look({"r": pages}, now=21.0).observation.attainment
    assert found is not None
    assert (found.requests, found.ttft, found.itl, found.both) == (4, 0.75, 1.0, 0.75)


def test_the_load_of_an_engine_is_what_all_routers_together_gave_it() -> None:
    one = FakeRouter(engines={"e": EngineGauges(3, 0, 0.5, 1000)})
    other = FakeRouter(engines={"e": EngineGauges(4, 0, 0.6, 900)})
    engines = [EnginePod("e", Role.DECODE, EngineState.READY, 60.0), EnginePod("f", None, EngineState.STARTING, 5.0)]
    pages = {"r": [one.page(0.0), one.page(10.0)], "s": [other.page(0.0), other.page(10.0)]}
    loads = look(pages, now=11.0, routers=("r", "s"), engines=engines).observation.engines
    assert [(load.name, load.running, load.kv_usage) for load in loads] == [("e", 7, 0.6), ("f", 0, 0.0)]


def test_those_who_wait_are_those_of_all_routers() -> None:
    one, other = FakeRouter(queued=5, queued_decode=3, queued_seconds=1.0), FakeRouter(queued=2, queued_decode=2)
    pages = {"r": [one.page(0.0), one.page(10.0)], "s": [other.page(0.0), other.page(10.0)]}
    observation = look(pages, now=11.0, routers=("r", "s")).observation
    assert (observation.queued_requests, observation.queued_decode, observation.queued_seconds) == (7, 5, 1.0)


@pytest.mark.parametrize(
    ("role", "changing"), [(Role.PREFILL, True), (Role.DECODE, False)], ids=["streams left", "none left"]
)
def test_an_engine_is_between_roles_while_it_has_work_of_the_former(role: Role, changing: bool) -> None:
    router = FakeRouter(engines={"e": EngineGauges(in_flight=2)})
    engine = EnginePod("e", role, EngineState.READY, 1.0, role_changed=True)
    pages = {"r": [router.page(0.0), router.page(10.0)]}
    assert look(pages, now=11.0, engines=[engine]).observation.engines[0].changing is changing


PAGES = [FakeRouter().page(0.0), FakeRouter().page(10.0)]
FAULT = Blind(Reason.METRICS_INVALID, "half of a page")


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        (look({}, now=11.0, blind=Blind(Reason.METRICS_UNREACHABLE, "away")), Reason.METRICS_UNREACHABLE),
        (look({}, now=11.0), Reason.METRICS_MISSING),
        (look({"r": PAGES}, now=11.0, routers=()), Reason.METRICS_MISSING),
        (look({"r": PAGES}, now=11.0, routers=("r", "s")), Reason.METRICS_MISSING),
        (look({"r": PAGES[:1]}, now=1.0), Reason.METRICS_MISSING),
        (look({"r": PAGES}, now=11.0, faults={"r": FAULT}), Reason.METRICS_INVALID),
        (look({"r": PAGES}, now=100.0), Reason.METRICS_STALE),
        (look({"r": PAGES}, now=-100.0), Reason.CLOCK_SKEW),
    ],
    ids=["source away", "empty", "no router", "one router missing", "first look", "bad page", "stale", "future"],
)
def test_what_cannot_be_trusted_is_named_and_nothing_is_decided_on_it(seen: Seen, reason: Reason) -> None:
    assert seen.blind is not None
    assert seen.blind.reason is reason
    assert seen.observation.metrics_problem == seen.blind.message


def test_a_fault_of_a_router_that_is_gone_does_not_matter() -> None:
    assert look({"r": PAGES}, now=11.0, faults={"gone": FAULT}).blind is None


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 40), st.booleans(), st.floats(0.5, 20.0)), min_size=2, max_size=60
    )
)
def test_however_routers_restart_nothing_is_negative_and_nothing_is_counted_twice(
    events: list[tuple[int, int, bool, float]],
) -> None:
    routers = [FakeRouter() for _ in range(3)]
    pages: dict[str, list[RouterPage]] = {}
    came, now = 0, 0.0
    for number, count, restarts, gap in events:
        now += gap
        if restarts:
            routers[number] = FakeRouter()
        routers[number].arrive(100, 10, times=count)
        routers[number].answer(110, 20, times=count)
        came += count
        pages.setdefault(f"r{number}", []).append(routers[number].page(now))
    edges = edges_of(pages, since=0.0)
    counted = increments(pages, edges)
    arrived = arrivals_of(edges, counted)
    assert sum(cell.count for one in arrived for cell in one.cells) <= came
    assert all(before.end == after.start for before, after in pairwise(arrived))
    assert all(cell.outputs >= 0 for one in completions_of(edges, counted) for cell in one.cells)
