"""One process of a local pod: started as the leader of a group of its own, tied to the guard, its output in a log.

The kubelet starts one for each life of a pod. Stopping it never leaves a member of its group behind.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from paceline.errors import LocalRuntimeError
from paceline.local.guard import PARENT_FD_ENV, Guard
from paceline.local.logs import PodLog

READ_BYTES: Final = 65_536
OUTPUT_SECONDS: Final = 2.0
"""How long to read on after a process ended: somebody else may hold its output open."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


class PodProcess:
    """A running process. Create with :meth:`start`; :attr:`exited` completes with its return code (negative: a
    signal).
    """

    def __init__(self, process: asyncio.subprocess.Process, log: PodLog, guard: Guard) -> None:
        self.pid = process.pid
        self._process = process
        self._guard = guard
        self._output = asyncio.create_task(_pump(process, log), name=f"output of {process.pid}")
        self.exited: asyncio.Task[int] = asyncio.create_task(self._wait(), name=f"exit of {process.pid}")

    @classmethod
    async def start(cls, program: Program, log: PodLog, guard: Guard) -> PodProcess:
        """Start ``program``. Raises LocalRuntimeError if the machine can't."""
        fd = guard.parent_fd
        try:
            process = await asyncio.create_subprocess_exec(
                *program.argv,
                env={**program.env, PARENT_FD_ENV: str(fd)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(fd,),
                start_new_session=True,
                limit=READ_BYTES,
            )
        except OSError as error:
            raise LocalRuntimeError(f"Can't start {program.argv[0]}: {error.strerror}.") from None
        guard.register(process.pid)
        return cls(process, log, guard)

    async def stop(self, grace_seconds: float) -> int:
        """Ask the leader to go, and kill the whole group if it has not gone in time. Returns the return code."""
        if not self.exited.done():
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            await asyncio.wait({self.exited}, timeout=grace_seconds)
        if not self.exited.done():
            self.kill()
        return await asyncio.shield(self.exited)

    def kill(self) -> None:
        """Kill the leader and every process it has started, at once."""
        if not self.exited.done():
            _kill_group(self.pid)

    async def _wait(self) -> int:
        code = await self._process.wait()
        # What the leader left behind when it was killed: a group keeps its number while it has a member.
        _kill_group(self.pid)
        self._guard.forget(self.pid)
        await asyncio.wait({self._output}, timeout=OUTPUT_SECONDS)
        if not self._output.done():
            self._output.cancel()
            await asyncio.wait({self._output})
        return code


async def _pump(process: asyncio.subprocess.Process, log: PodLog) -> None:
    assert process.stdout is not None  # noqa: S101 - it was asked for as a pipe
    while data := await process.stdout.read(READ_BYTES):
        log.write(data)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def describe_exit(code: int) -> str:
    """A return code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
