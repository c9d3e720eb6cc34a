"""Watches whether a ready engine's steps go on: one that runs requests and gets nothing done takes no new work, and is
given up in the end. Called by the worker, beside ``health``: a server may answer while its core stands still.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from paceline.clock import Clock
from paceline.errors import EngineError
from paceline_worker.engine.client import EngineClient, Work
from paceline_worker.engine.status import EngineStatus

PERIOD_SECONDS: Final = 2.0
"""Between two looks, where the time for which it may stand still is not shorter."""
GIVEN_UP_AFTER: Final = 3
"""Times the time after which it takes no new work."""

log = logging.getLogger(__name__)


class Progress:
    """Since when nothing has happened to an engine that has something to do."""

    __slots__ = ("_last", "_since")

    def __init__(self) -> None:
        self._last: Work | None = None
        self._since: float | None = None

    def stalled_seconds(self, work: Work, now: float) -> float:
        """How long it has run requests without a sign of progress; 0 where it moves or has nothing to run.

        Any change counts: a token, a prompt's chunk, a request that came or went, a KV block.
        """
        moved = work != self._last
        self._last = work
        if moved or work.running == 0 or self._since is None:
            self._since = now
        return now - self._since


async def watch_progress(
    client: EngineClient,
    status: EngineStatus,
    clock: Clock,
    *,
    stall_seconds: float,
    period_seconds: float,
    once: bool = False,
) -> None:
    """Keep ``status.stalled`` true. Raises EngineError when the engine stands still for GIVEN_UP_AFTER times as long.
    With ``once`` it returns when the engine has stood still for ``stall_seconds``.

    A page of metrics that does not come says nothing: that is for the health checks to judge.
    """
    progress = Progress()
    while True:
        await asyncio.sleep(period_seconds)
        work = await client.work()
        if work is None:
            continue
        stalled = progress.stalled_seconds(work, clock.monotonic())
        if stalled >= GIVEN_UP_AFTER * stall_seconds:
            raise EngineError(
                f"The engine runs {work.running} requests and has done no step for {stalled:.0f} s; it is given up."
            )
        if status.stalled != (stalled >= stall_seconds):
            status.stalled = not status.stalled
            said = f"has done no step for {stalled:.0f} s" if status.stalled else "does steps again"
            log.warning("The engine, with %d requests, %s.", work.running, said)
        if once and status.stalled:
            return
