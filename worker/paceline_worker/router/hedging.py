"""Asks a second engine where the first is late, and takes whichever answers first.

:class:`paceline_worker.router.opening.Opening` says what is asked, of whom, and what becomes of the one that is not
needed; here is when a second may be asked, and the race. Off unless ``hedging`` is configured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any, Final, TypeVar

from paceline.api import wire
from paceline.policy.routing.retries import RetryBudget
from paceline_worker.http.errors import UpstreamError
from paceline_worker.router.gate import Gate
from paceline_worker.router.matcher import Prepared
from paceline_worker.router.metrics import Counts
from paceline_worker.router.places import Place

T = TypeVar("T")

PATIENCE: Final = 2.0
"""Times what the engine model expects, before which nothing is late: else the longest prompts, which cost the most to
compute twice, would take the whole budget.
"""


class Stage(StrEnum):
    """What an engine is late with."""

    PREFILL = "prefill"
    """The answer of the prefill engine."""
    DECODE = "decode"
    """The first bytes for the client."""


class Hedging:
    """One object for the process."""

    def __init__(self, settings: wire.Hedging, gate: Gate, hedges: Counts) -> None:
        self._after_seconds = settings.after_milliseconds / 1000
        self._budget = RetryBudget(share=settings.max_percent / 100, saved=0.0)
        self._gate = gate
        self._hedges = hedges

    def arrived(self) -> None:
        """A request that may be hedged has come."""
        self._budget.earn()

    def place(self, stage: Stage, asking: Prepared, fits: Callable[[Place], bool]) -> Place | None:
        """Engines for a second try; None where the budget is spent, or where it would take room that others need.

        It never waits, and gets nothing while others do.
        """
        if self._budget.saved < 1:
            self._hedges.add(stage, "over_budget")
            return None
        found = self._gate.try_place(asking)
        if found is not None and not fits(found):
            found.release()
            found = None
        if found is None:
            self._hedges.add(stage, "no_room")
            return None
        self._budget.spend()
        return found

    async def race(
        self,
        stage: Stage,
        expected_seconds: float,
        first: Coroutine[Any, Any, T],
        second: Callable[[], Coroutine[Any, Any, T] | None],
        answers: Callable[[T], bool],
        dropped: Callable[[bool, T | UpstreamError | None], None],
    ) -> T:
        """The result of whichever ``answers`` first; where neither does, what the last one came to, its UpstreamError
        too.

        ``second`` is called once ``first`` is late, by what is expected of it; None: there is none. A try that fails
        while the other one runs is no reason to stop. ``dropped`` is told of every try that is not needed: whether it
        is the second, and what it had come to (None: it was stopped). A stopped try has cleaned up by then.
        """
        tries = [asyncio.create_task(first)]
        won: asyncio.Task[T] | None = None
        running = tries
        try:
            await asyncio.wait(tries, timeout=max(self._after_seconds, PATIENCE * expected_seconds))
            other = None if tries[0].done() else second()
            if other is not None:
                tries.append(asyncio.create_task(other))
            running = tries.copy()
            while won is None:
                for task in [one for one in running if one.done()]:
                    if len(running) == 1 or _answered(task, answers):
                        won = task
                        break
                    running.remove(task)
                    dropped(task is not tries[0], _outcome(task))
                else:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            return won.result()
        finally:
            if len(tries) > 1:
                self._hedges.add(stage, _name(tries, won, answers))
            left = [task for task in running if task is not won]
            try:
                for task in left:
                    task.cancel()
                if left:
                    await asyncio.wait(left)
            finally:
                for task in left:
                    dropped(task is not tries[0], _outcome(task))


def _answered(task: asyncio.Task[T], answers: Callable[[T], bool]) -> bool:
    return not task.cancelled() and task.exception() is None and answers(task.result())


def _outcome(task: asyncio.Task[T]) -> T | UpstreamError | None:
    """What a try came to; None where it was stopped. Raises what no try should."""
    if not task.done() or task.cancelled():
        return None
    error = task.exception()
    if error is None or isinstance(error, UpstreamError):
        return error or task.result()
    raise error


def _name(tries: list[asyncio.Task[T]], won: asyncio.Task[T] | None, answers: Callable[[T], bool]) -> str:
    if won is None:
        return "abandoned"
    if not _answered(won, answers):
        return "failed"
    return "first" if won is tries[0] else "second"
