"""An engine that stops answering takes no new work until it answers again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from paceline_worker.engine.health import watch_health
from paceline_worker.engine.status import EngineStatus, State


class ScriptedEngine:
    """Answers its health checks as told; remembers whether it was ready before each of them."""

    def __init__(self, status: EngineStatus, answers: str) -> None:
        self._status = status
        self._answers: Iterator[str] = iter(answers)
        self.ready: list[bool] = []
        self.done = asyncio.Event()

    async def healthy(self) -> bool:
        self.ready.append(self._status.ready)
        answer = next(self._answers, None)
        if answer is None:
            self.done.set()
            await asyncio.Event().wait()
        return answer == "+"


@pytest.mark.parametrize(
    ("answers", "ready"),
    [
        ("+++", "yyyy"),
        ("--+--+", "yyyyyyy"),
        ("---", "yyyn"),
        ("-----+-", "yyynnnyy"),
    ],
)
async def test_three_failures_in_a_row_take_it_out_and_one_answer_brings_it_back(answers: str, ready: str):
    status = EngineStatus()
    status.move(State.READY, "serving")
    engine = ScriptedEngine(status, answers)
    watching = asyncio.create_task(watch_health(engine, status, period_seconds=0))  # type: ignore[arg-type]
    await engine.done.wait()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert "".join("y" if was else "n" for was in engine.ready) == ready
