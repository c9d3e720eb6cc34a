"""Keeps one local pod running: starts its process, asks whether it is ready, and starts it anew when it dies.

The cluster makes one :class:`PodRunner` a pod. A pod that ends is started again with a growing pause; one that never
gets ready, or says that its configuration can't work, is given up with its last words.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

from paceline.api import wire
from paceline.clock import Clock
from paceline.errors import ConfigError, ConfigurationImpossible, LocalRuntimeError
from paceline.local.guard import Guard
from paceline.local.logs import PodLog
from paceline.local.process import PodProcess, Program, describe_exit

LAST_WORDS: Final = 6
"""Log lines that a message about a failed pod repeats."""
LAST_WORDS_WIDTH: Final = 300
ERROR_MARK: Final = "error: "
"""How workers begin the line that says why they end."""
ERROR_WIDTH: Final = 80
"""Characters of it in a line on the terminal."""
HOPELESS: Final = frozenset({ConfigError.exit_code, ConfigurationImpossible.exit_code})
"""Exit codes by which a pod says that starting it again would change nothing."""


class PodPhase(StrEnum):
    """Where a pod is in its life."""

    WAITING = "waiting"
    """For its next start."""
    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    """Given up; it is not started again."""
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often, and for how long, a pod may fail."""

    start_deadline_seconds: float
    """From a start to the first time it is ready; after that it is killed and counts as a failed start."""
    max_failed_starts: int = 3
    """In a row without having been ready."""
    first_pause_seconds: float = 0.25
    longest_pause_seconds: float = 10.0
    settled_seconds: float = 10.0
    """A pod that was ready for this long starts with the first pause again."""
    starting_poll_seconds: float = 0.1
    ready_poll_seconds: float = 0.5
    silent_polls: int = 3
    """Questions in a row that a ready pod may leave unanswered. Its end is seen at once all the same."""

    def pause_seconds(self, failures: int) -> float:
        """Before the next start, after ``failures`` (at least 1) ends in a row."""
        return min(self.longest_pause_seconds, self.first_pause_seconds * 2.0 ** min(failures - 1, 30))


@dataclass(frozen=True, slots=True)
class Launch:
    """One life of a pod: its program, and the ports that are its own until :attr:`release` is called."""

    program: Program
    ports: wire.EnginePorts
    """A router uses ``api`` and ``admin`` only."""
    release: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Readiness:
    """Answer of a pod to the question whether it is ready, and why not."""

    ready: bool
    reason: str = ""
    answered: bool = True
    """False when nothing came, which says less than a plain no: the machine may just be busy."""


class Probe(Protocol):
    """Asks a pod whether it is ready."""

    async def __call__(self, admin_port: int, /) -> Readiness:
        """The pod's answer. Never raises for a pod that does not answer."""
        ...


class IdleProbe(Protocol):
    """Asks an engine whether it has nothing in flight."""

    async def __call__(self, admin_port: int, /) -> bool:
        """False also where it does not answer."""
        ...


@dataclass(slots=True)
class PodStatus:
    """What is known of a pod. Written by its runner only."""

    name: str
    phase: PodPhase = PodPhase.WAITING
    reason: str = ""
    starts: int = 0
    last_end: str = ""
    """How the life before this one ended."""
    pid: int | None = None
    ports: wire.EnginePorts = field(default_factory=wire.EnginePorts)
    """Those of the present or last life."""

    @property
    def start_id(self) -> str:
        """Another one with every start."""
        return f"{self.name}-{self.starts}"


class PodRunner:
    """Runs one pod until :meth:`stop`. ``changed`` is called after every change of phase."""

    def __init__(
        self,
        name: str,
        *,
        launch: Callable[[], Launch],
        probe: Probe,
        policy: RestartPolicy,
        log: PodLog,
        guard: Guard,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self.status = PodStatus(name)
        self._launch = launch
        self._probe = probe
        self._policy = policy
        self._log = log
        self._guard = guard
        self._clock = clock
        self._changed = changed
        self._process: PodProcess | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. The pod is up when its status says so."""
        self._task = asyncio.create_task(self._run(), name=f"pod {self.status.name}")

    async def stop(self, grace_seconds: float) -> None:
        """End the pod for good: ask, wait up to ``grace_seconds``, then kill."""
        self._stopping.set()
        if self._process is not None:
            await self._process.stop(grace_seconds)
        if self._task is not None:
            await self._task
        self._log.close()

    def kill(self) -> None:
        """End the pod for good and at once; :meth:`stop` is still to be awaited."""
        self._stopping.set()
        if self._process is not None:
            self._process.kill()

    @property
    def error(self) -> BaseException | None:
        """What stopped the runner itself, which nothing should."""
        task = self._task
        return task.exception() if task is not None and task.done() and not task.cancelled() else None

    @property
    def last_words(self) -> list[str]:
        """The last lines of the pod's output, shortened."""
        return [line[:LAST_WORDS_WIDTH] for line in self._log.last_lines(LAST_WORDS)]

    @property
    def failure(self) -> str:
        """The failure as a message for the user: what happened, the last log lines, and where the rest is."""
        words = "".join(f"\n    {line}" for line in self.last_words)
        said = f" Its last words:{words}" if words else " It wrote nothing."
        return f"{self.status.name}: {self.status.reason}.{said}\n  The whole log is in {self._log.path}."

    @property
    def _last_error(self) -> str:
        """What the pod said of its end last, in brackets; empty if that was no error."""
        last = next(iter(self._log.last_lines(1)), "")
        said = last.removeprefix(ERROR_MARK)
        if said == last:
            return ""
        return f" ({said if len(said) <= ERROR_WIDTH else said[: ERROR_WIDTH - 1] + '…'})"

    async def _run(self) -> None:
        failed_starts = ends = 0
        while not self._stopping.is_set():
            try:
                launch = self._launch()
                self._process = PodProcess.start(launch.program, self._log, self._guard)
            except LocalRuntimeError as error:
                self._set(PodPhase.FAILED, str(error).rstrip("."))
                return
            self.status.starts += 1
            self.status.pid, self.status.ports = self._process.pid, launch.ports
            self._set(PodPhase.STARTING, "")
            if self._stopping.is_set():
                self._process.kill()
            ready_seconds = await self._live(self._process, launch.ports.admin)
            code = await self._process.exited
            self._process, self.status.pid = None, None
            launch.release()
            if self._stopping.is_set():
                break
            failed_starts = failed_starts + 1 if ready_seconds is None else 0
            ends = 1 if (ready_seconds or 0) >= self._policy.settled_seconds else ends + 1
            if self._give_up(code, failed_starts):
                return
            pause = self._policy.pause_seconds(ends)
            ended = f"ended with {describe_exit(code)}"
            self.status.last_end = ended + self._last_error
            self._set(PodPhase.WAITING, f"{ended}; starts again in {pause:.1f} s")
            await self._sleep(pause)
        self._set(PodPhase.STOPPED, "stopped")

    async def _live(self, process: PodProcess, admin_port: int) -> float | None:
        """Follow one life to its end. Returns how long the pod had been ready, or None if it never was."""
        deadline = self._clock.monotonic() + self._policy.start_deadline_seconds
        ready_since: float | None = None
        silent = 0
        while not process.exited.done():
            answer = await self._probe(admin_port)
            now = self._clock.monotonic()
            if process.exited.done() or self._stopping.is_set():
                break
            silent = 0 if answer.answered else silent + 1
            if self.status.phase is PodPhase.READY and 0 < silent < self._policy.silent_polls:
                continue
            if answer.ready:
                ready_since = now if ready_since is None else ready_since
                self._set(PodPhase.READY, "")
            else:
                self._set(PodPhase.STARTING, answer.reason)
                if ready_since is None and now >= deadline:
                    process.kill()
                    break
            pause = self._policy.ready_poll_seconds if answer.ready else self._policy.starting_poll_seconds
            await asyncio.wait({process.exited}, timeout=pause)
        await asyncio.wait({process.exited})
        return None if ready_since is None else self._clock.monotonic() - ready_since

    def _give_up(self, code: int, failed_starts: int) -> bool:
        """Whether the pod is not to be started again; its status then says why."""
        if failed_starts and code in HOPELESS:
            self._set(PodPhase.FAILED, f"its configuration can't work here ({describe_exit(code)})")
        elif failed_starts >= self._policy.max_failed_starts:
            tries = "the start" if failed_starts == 1 else f"{failed_starts} starts in a row"
            self._set(
                PodPhase.FAILED,
                f"it never got ready in {tries} (the last one said: {self.status.reason or 'nothing'}; "
                f"ended with {describe_exit(code)}; it has {self._policy.start_deadline_seconds:g} s for each)",
            )
        else:
            return False
        return True

    async def _sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _set(self, phase: PodPhase, reason: str) -> None:
        before = self.status.phase
        self.status.phase, self.status.reason = phase, reason
        if phase is not before:
            self._changed()
