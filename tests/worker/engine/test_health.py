"""An engine that stops answering takes no new work until it answers again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from paceline.errors import EngineError
from paceline_worker.engine.client import Health
from paceline_worker.engine.health import LOST_CHECKS, watch_health
from paceline_worker.engine.status import EngineStatus, State


class ScriptedEngine:
    """Answers its health checks as told; remembers whether it was ready before each of them."""

    def __init__(self, status: EngineStatus, answers: str) -> None:
        self._status = status
        self._answers: Iterator[str] = iter(answers)
        self.ready: list[bool] = []
        self.done = asyncio.Event()

    async def health(self) -> Health:
        self.ready.append(self._status.ready)
        answer = next(self._answers, None)
        if answer is None:
            self.done.set()
            await asyncio.Event().wait()
        return {"+": Health.GOOD, "x": Health.BAD, "-": Health.SILENT}[answer or "-"]


@pytest.mark.parametrize(
    ("answers", "ready"),
    [
        ("+++", "yyyy"),
        ("--+--+", "yyyyyyy"),
        ("---", "yyyn"),
        ("-----+-", "yyynnnyy"),
        ("x+", "yny"),
        ("+x-+", "yynny"),
    ],
)
async def test_silence_is_borne_three_times_a_bad_answer_never(answers: str, ready: str):
    status = EngineStatus()
    status.move(State.READY, "serving")
    engine = ScriptedEngine(status, answers)
    watching = asyncio.create_task(watch_health(engine, status, period_seconds=0))  # type: ignore[arg-type]
    await engine.done.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert "".join("y" if was else "n" for was in engine.ready) == ready


@pytest.mark.parametrize("answer", ["x", "-"])
async def test_an_engine_that_never_answers_well_again_is_given_up(answer: str):
    status = EngineStatus()
    status.move(State.READY, "serving")
    engine = ScriptedEngine(status, "+" + answer * LOST_CHECKS)
    with pytest.raises(EngineError, match="failed 20 health checks in a row"):
        await watch_health(engine, status, period_seconds=0)  # type: ignore[arg-type]
    assert not status.ready
