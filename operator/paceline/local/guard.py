"""The local runtime's end of the two ties that leave no orphans, whatever happens to ``paceline up``.

1. :mod:`paceline.local.guardian`, a process that kills every registered process group when this one is gone.
2. A pipe that every pod inherits the read end of, named in ``PACELINE_PARENT_FD``: its end of file tells a pod to
   go. It covers the moment between a process's start and its registration, and the case that the guardian itself is
   killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from types import TracebackType
from typing import Final, Self

from paceline.local.guardian import start_time

log = logging.getLogger(__name__)

PARENT_FD_ENV: Final = "PACELINE_PARENT_FD"
CLOSE_SECONDS: Final = 5.0


class Tie:
    """The pipe of one pod. Its own, because a pod that changes the mode of a shared one would change it for all."""

    def __init__(self) -> None:
        # Neither end is inherited unless it is passed on by name.
        self.read_end, self._write_end = os.pipe()

    def passed_on(self) -> None:
        """The pod has its end; this process has no use for it."""
        os.close(self.read_end)

    def cut(self) -> None:
        """The pod has ended."""
        os.close(self._write_end)


class Guard:
    """Use as a context manager around everything that starts processes; all that is registered at its end is killed."""

    def __init__(self) -> None:
        self._groups: dict[int, int] = {}
        self._guardian: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._guardian = _start_guardian()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._guardian is not None:
            _close(self._guardian)
            self._guardian = None

    @property
    def guardian_pid(self) -> int | None:
        """Of the guardian that watches now."""
        return None if self._guardian is None else self._guardian.pid

    def register(self, pid: int) -> None:
        """Have the group that ``pid`` leads killed when this process is gone."""
        started = start_time(pid)
        if started is None:
            return
        self._groups[pid] = started
        self._tell(f"+{pid} {started}")

    def forget(self, pid: int) -> None:
        """The group of ``pid`` has ended; its number may belong to somebody else from now on."""
        if self._groups.pop(pid, None) is not None:
            self._tell(f"-{pid}")

    async def keep(self, period_seconds: float = 1.0) -> None:
        """Start another guardian whenever the present one was killed. Runs until cancelled."""
        while True:
            await asyncio.sleep(period_seconds)
            if self._guardian is not None and self._guardian.poll() is not None:
                log.warning("the guardian ended with %s; starting another", self._guardian.returncode)
                self._restart()

    def _tell(self, line: str) -> None:
        if self._guardian is None or self._guardian.stdin is None:
            raise RuntimeError("the guard is not entered")
        try:
            self._guardian.stdin.write(line + "\n")
            self._guardian.stdin.flush()
        except BrokenPipeError:
            self._restart()

    def _restart(self) -> None:
        if self._guardian is not None:
            _close(self._guardian)
        self._guardian = _start_guardian()
        for pid, started in self._groups.items():
            self._tell(f"+{pid} {started}")


def _start_guardian() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "paceline.local.guardian"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def _close(guardian: subprocess.Popen[str]) -> None:
    if guardian.stdin is not None:
        try:
            guardian.stdin.close()
        except BrokenPipeError:
            log.debug("the guardian was gone already")
    try:
        guardian.wait(timeout=CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        guardian.kill()
        guardian.wait()
