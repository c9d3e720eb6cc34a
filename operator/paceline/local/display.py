"""What ``paceline up`` shows, and when: a live page on a terminal, a line every few seconds elsewhere.

:mod:`paceline.local.up` tells it what happens; :mod:`paceline.local.table` renders.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from paceline.api.v1alpha1 import Objective
from paceline.clock import Clock
from paceline.local.cluster import LocalCluster
from paceline.local.load import LoadResult
from paceline.local.monitor import Monitor
from paceline.local.pods import LOOPBACK
from paceline.local.report import SloReport, report_lines
from paceline.local.table import serving_page, starting_line, starting_page, summary, window_start
from paceline.planner.deployment import Step
from paceline.traces.record import RowProblem

PAGE_SECONDS: Final = 0.5
LINE_SECONDS: Final = 5.0


class Display:
    """Writes to one console."""

    def __init__(
        self,
        console: Console,
        cluster: LocalCluster,
        monitor: Monitor,
        objective: Objective,
        speed: float,
        clock: Clock,
    ) -> None:
        self._console = console
        self._cluster = cluster
        self._monitor = monitor
        self._objective = objective
        self._speed = speed
        self._clock = clock
        self._load: tuple[str, int, LoadResult] | None = None
        self._starts: dict[str, int] = {}
        """Of each pod, as far as told."""

    async def while_starting(self) -> None:
        """Show what the pods wait for until all are ready. Raises EngineError for one that was given up."""
        for note in self._cluster.plan.notes:
            self._say(note, style="yellow")
        begun = self._clock.monotonic()
        if self._console.is_terminal:
            with Live(console=self._console, auto_refresh=False, transient=True) as live:
                await self._cluster.wait_ready(
                    lambda: live.update(starting_page(self._cluster, self._clock.monotonic() - begun), refresh=True)
                )
            return
        last = begun

        def progress() -> None:
            nonlocal last
            now = self._clock.monotonic()
            if now - last >= LINE_SECONDS:
                last = now
                self._say(starting_line(self._cluster, now - begun))

        await self._cluster.wait_ready(progress)

    def started(self, seconds: float, model: str, logs: Path) -> None:
        """Say where the endpoint is and how to try it."""
        plan, url = self._cluster.plan, self._cluster.url
        body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 32})
        self._say(f"Up in {seconds:.1f} s: {plan.title} behind {url}", style="bold")
        self._say(f"  curl {url}/v1/completions -H 'content-type: application/json' -d '{body}'")
        self._say(f"  live page: http://{LOOPBACK}:{self._cluster.router.ports.admin}/live")
        self._say(f"  logs: {logs}", style="dim")

    def loading(self, title: str, requests: int, result: LoadResult) -> None:
        """A load of ``requests`` begins; its ``result`` fills from now on."""
        speed = "" if self._speed == 1 else f", {self._speed:g}x as fast as it was"
        self._say(f"Load: {title}, {requests} requests{speed}")
        self._load = (title, requests, result)

    async def while_serving(self) -> None:
        """Show the table until cancelled. Raises EngineError when there is nothing left that could serve."""
        if not self._console.is_terminal:
            while True:
                await self._pause(LINE_SECONDS)
                self._say(f"{self._headline()}  {self._summary()}")
        with Live(console=self._console, auto_refresh=False) as live:
            while True:
                page = serving_page(self._monitor.samples, self._objective, self._speed, self._headline())
                live.update(page, refresh=True)
                await self._pause(PAGE_SECONDS)

    def decided(self, step: Step) -> None:
        """The planner changes something: say what, and why."""
        first, *rest = step.words
        self._say(f"Planner: {first}", style="cyan")
        for sentence in rest:
            self._say(f"  {sentence}", style="dim")

    def reported(self, report: SloReport, problems: Sequence[RowProblem]) -> None:
        """Print the report of a load."""
        self._load = None
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for label, text in report_lines(report):
            table.add_row(Text(label), Text(text))
        for problem in problems:
            table.add_row("", Text(str(problem), style="dim"))
        self._console.print()
        self._console.print(Text("SLO report", style="bold underline"))
        self._console.print(table)

    def wrote(self, what: str, path: Path) -> None:
        """A file was written."""
        self._say(f"Wrote the {what} to {path}")

    def stopping(self) -> None:
        """The end has begun."""
        self._say("Stopping ...", style="dim")

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self._cluster.check()
        self._tell_ends()

    def _tell_ends(self) -> None:
        """Say which pods have ended and were started again since the last look."""
        pods = {pod.name: pod for pod in (self._cluster.router, *(engine.status for engine in self._cluster.engines))}
        for name, pod in pods.items():
            if pod.starts > max(1, self._starts.get(name, 0)):
                self._say(f"{name} {pod.last_end}, and is started again", style="red")
        self._starts = {name: pod.starts for name, pod in pods.items()}

    def _headline(self) -> str:
        if self._load is None:
            return self._cluster.url
        title, total, result = self._load
        ended = sum(1 for request in result.requests if request.ended)
        failed = sum(1 for request in result.requests if request.ended and request.error is not None)
        return f"{title}: {len(result.requests)} of {total} sent, {ended} answered, {failed} failed"

    def _summary(self) -> str:
        samples = self._monitor.samples
        return summary(samples[-1], window_start(samples), self._objective, self._speed)

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style), soft_wrap=True)
