"""When a drain is over, told with a scripted engine and a clock that jumps."""

from __future__ import annotations

import asyncio

import pytest

from paceline.clock import VirtualClock
from paceline_worker.engine import drain
from paceline_worker.engine.client import Load
from paceline_worker.engine.drain import HELD_BLOCKS_SECONDS, QUIET_SECONDS, wait_idle
from paceline_worker.engine.status import EngineStatus

BUSY = Load(running=2, waiting=1, cache_use=0.5)
HELD = Load(running=0, waiting=0, cache_use=0.1)
IDLE = Load(running=0, waiting=0, cache_use=0.0)


class ScriptedEngine:
    """Answers each second of virtual time with the next load, the last one for ever."""

    def __init__(self, clock: VirtualClock, *loads: Load | None) -> None:
        self._clock = clock
        self._loads = loads

    async def load(self) -> Load | None:
        return self._loads[min(int(self._clock.monotonic()), len(self._loads) - 1)]


async def drained(
    monkeypatch: pytest.MonkeyPatch, *loads: Load | None, limit: float = 300
) -> tuple[bool, float, int | None]:
    """Whether it became idle, after how many seconds, and the requests last seen."""
    clock = VirtualClock()
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        clock.advance(seconds)
        await real_sleep(0)

    monkeypatch.setattr(drain.asyncio, "sleep", sleep)
    status = EngineStatus()
    idle = await wait_idle(ScriptedEngine(clock, *loads), status, clock, limit_seconds=limit)  # type: ignore[arg-type]
    return idle, clock.monotonic(), status.in_flight


async def test_an_idle_engine_is_watched_for_a_moment_for_a_late_request(monkeypatch: pytest.MonkeyPatch):
    idle, seconds, _ = await drained(monkeypatch, IDLE)
    assert idle
    assert QUIET_SECONDS <= seconds < 2 * QUIET_SECONDS


async def test_requests_in_flight_are_waited_for(monkeypatch: pytest.MonkeyPatch):
    idle, seconds, in_flight = await drained(monkeypatch, *[BUSY] * 20, IDLE)
    assert idle
    assert 20 + QUIET_SECONDS <= seconds < 22
    assert in_flight == 0


async def test_a_late_request_starts_the_moment_anew(monkeypatch: pytest.MonkeyPatch):
    _, seconds, _ = await drained(monkeypatch, BUSY, IDLE, BUSY, BUSY, IDLE)
    assert seconds >= 4 + QUIET_SECONDS


async def test_blocks_that_a_decode_engine_has_yet_to_fetch_are_waited_for(monkeypatch: pytest.MonkeyPatch):
    idle, seconds, _ = await drained(monkeypatch, *[HELD] * 5, IDLE)
    assert idle
    assert 5 + QUIET_SECONDS <= seconds < 7


async def test_blocks_that_nobody_fetches_do_not_hold_the_engine_for_ever(monkeypatch: pytest.MonkeyPatch):
    idle, seconds, _ = await drained(monkeypatch, HELD)
    assert idle
    assert HELD_BLOCKS_SECONDS <= seconds < HELD_BLOCKS_SECONDS + 2


async def test_an_engine_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch):
    idle, seconds, _ = await drained(monkeypatch, None, None, None, IDLE)
    assert idle
    assert seconds >= 3


async def test_the_limit_ends_the_wait_and_says_what_is_cut_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    idle, seconds, in_flight = await drained(monkeypatch, BUSY, limit=10)
    assert not idle
    assert 10 <= seconds < 11
    assert in_flight == 3
    assert "Still 3 requests in flight after 10 s" in caplog.text


async def test_a_limit_of_zero_does_not_wait(monkeypatch: pytest.MonkeyPatch):
    idle, seconds, _ = await drained(monkeypatch, BUSY, limit=0)
    assert (idle, seconds) == (False, 0)
