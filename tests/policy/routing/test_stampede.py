"""Several routers that see the same loads late, and know of each other's work only through them."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from paceline.api.wire import Role
from paceline.policy.routing.cost import RequestView, Settings
from paceline.policy.routing.fleet import EngineView, NominalModel
from paceline.policy.routing.placement import choose

ROUTERS = 4
ENGINES = 16
SETTINGS = Settings(disaggregated=False, local_prefill_tokens=0, max_running_per_engine=256)
MODEL = NominalModel()


def spread(*, arrivals_a_second: int, scrape_seconds: float, held_by: int = 0) -> tuple[float, Counter[int]]:
    """A steady minute. Returns the largest load over the mean load at its end, and the requests each engine had.

    Each request runs for 10 s. Every router scrapes all engines at its own moment, every ``scrape_seconds``, and knows
    its own requests at once. ``held_by``: engines that hold nine tenths of every prompt.
    """
    draw = random.Random(7)
    running: list[list[int]] = [[0] * ROUTERS for _ in range(ENGINES)]
    seen = [[0] * ENGINES for _ in range(ROUTERS)]
    ends: list[tuple[float, int, int]] = []
    served: Counter[int] = Counter()
    worst = 0.0
    request = RequestView(prompt_tokens=2000, match={str(engine): 1800 for engine in range(held_by)})
    for step in range(60 * arrivals_a_second):
        now = step / arrivals_a_second
        while ends and ends[0][0] <= now:
            _, engine, router = ends.pop(0)
            running[engine][router] -= 1
        for router in range(ROUTERS):
            if (now + router * scrape_seconds / ROUTERS) % scrape_seconds < 1 / arrivals_a_second:
                seen[router] = [sum(load) - load[router] for load in running]
        router = draw.randrange(ROUTERS)
        views = [
            EngineView(
                name=str(engine), role=Role.BOTH, running=running[engine][router] + seen[router][engine],
                context_tokens=2000 * running[engine][router],
            )
            for engine in range(ENGINES)
        ]  # fmt: skip
        placement = choose(request, views, SETTINGS, MODEL, draw.random())
        assert placement is not None
        engine = int(placement.decode.name)
        running[engine][router] += 1
        served[engine] += 1
        ends.append((now + 10, engine, router))
        if now > 30:
            loads = [sum(load) for load in running]
            worst = max(worst, max(loads) * ENGINES / sum(loads))
    return worst, served


@pytest.mark.parametrize("arrivals", [16, 64])
def test_four_routers_keep_the_loads_even_without_talking_to_each_other(arrivals: int) -> None:
    worst, served = spread(arrivals_a_second=arrivals, scrape_seconds=1.0)
    assert worst < 1.5
    assert len(served) == ENGINES


def test_a_prefix_that_one_engine_holds_does_not_bring_all_requests_there() -> None:
    _, served = spread(arrivals_a_second=64, scrape_seconds=1.0, held_by=1)
    mean = sum(served.values()) / ENGINES
    assert mean < served[0] < 3 * mean, "it gets more than its share, and no stampede"
    assert len(served) == ENGINES
