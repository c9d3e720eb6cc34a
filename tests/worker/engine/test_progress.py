"""An engine that runs requests and does no step takes no new work, and is given up in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from paceline.clock import VirtualClock
from paceline.errors import EngineError
from paceline_worker.engine.client import MOVING, Work, parse_work
from paceline_worker.engine.progress import Progress, watch_progress
from paceline_worker.engine.status import EngineStatus, State

BUSY = Work(running=2, seen=(2.0, 10.0))


class ScriptedEngine:
    """Says how its work stands, a second apart; then nothing more."""

    def __init__(self, clock: VirtualClock, status: EngineStatus, works: Sequence[Work | None]) -> None:
        self._clock = clock
        self._status = status
        self._works = iter(works)
        self.ready: list[bool] = []
        self.done = asyncio.Event()

    async def work(self) -> Work | None:
        self.ready.append(self._status.ready)
        self._clock.advance(1.0)
        try:
            return next(self._works)
        except StopIteration:
            self.done.set()
            await asyncio.Event().wait()
            raise


async def watched(*works: Work | None, stall_seconds: float = 3.0) -> str:
    """Whether the engine was ready before each look."""
    status, clock = EngineStatus(), VirtualClock()
    status.move(State.READY, "serving")
    engine = ScriptedEngine(clock, status, works)
    watching = asyncio.create_task(
        watch_progress(engine, status, clock, stall_seconds=stall_seconds, period_seconds=0)  # type: ignore[arg-type]
    )
    done = asyncio.create_task(engine.done.wait())
    await asyncio.wait((watching, done), return_when=asyncio.FIRST_COMPLETED)
    for task in (watching, done):
        task.cancel()
    results = await asyncio.gather(watching, done, return_exceptions=True)
    for result in results:
        if isinstance(result, EngineError):
            raise result
    return "".join("y" if was else "n" for was in engine.ready)


async def test_an_engine_whose_steps_stop_takes_no_new_work_until_they_go_on():
    moved = Work(running=2, seen=(2.0, 11.0))
    assert await watched(BUSY, BUSY, BUSY, BUSY, BUSY, moved, moved) == "yyyynnyy"


async def test_one_that_stands_still_for_three_times_as_long_is_given_up():
    with pytest.raises(EngineError, match="runs 2 requests and has done no step for 9 s"):
        await watched(*[BUSY] * 12)


async def test_an_idle_engine_may_stand_still_for_ever():
    assert "n" not in await watched(*[Work(running=0, seen=(0.0, 10.0))] * 40)


async def test_a_page_that_does_not_come_says_nothing():
    assert "n" not in await watched(BUSY, *[None] * 40)


async def test_every_kind_of_work_counts_as_progress():
    assert "n" not in await watched(*(Work(running=1, seen=(1.0, float(step // 2))) for step in range(40)))


def test_time_counts_from_the_last_sign_of_progress():
    progress = Progress()
    assert [progress.stalled_seconds(BUSY, now) for now in (5.0, 6.0, 9.0)] == [0.0, 1.0, 4.0]
    assert progress.stalled_seconds(Work(running=2, seen=(2.0, 12.0)), 10.0) == 0.0


def test_work_is_read_from_vllm_s_own_counters():
    lines = [f'{name}{{engine="{rank}"}} {rank + 1}.0' for rank in range(2) for name in MOVING]
    assert parse_work("\n".join(lines)) == Work(running=3, seen=(3.0,) * len(MOVING))
    assert parse_work("vllm:generation_tokens_total 3") is None
