"""One process of a local pod: started as the leader of a group of its own, tied to the guard, its output in a log.

The kubelet starts one for each life of a pod. Stopping it never leaves a member of its group behind.

The exit is seen through a pidfd and not through asyncio's own subprocesses: those report an exit only once the output
is closed, and a child of a killed leader holds that open for as long as it likes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from paceline.errors import LocalRuntimeError
from paceline.local.guard import PARENT_FD_ENV, Guard, Tie
from paceline.local.logs import PodLog

READ_BYTES: Final = 65_536
OUTPUT_SECONDS: Final = 2.0
"""How long to read on after the group has gone: somebody outside it may hold the output open."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


class PodProcess:
    """A running process. Create with :meth:`start`; :attr:`exited` gives its return code, negative for a signal."""

    def __init__(self, process: subprocess.Popen[bytes], output: int, log: PodLog, guard: Guard, tie: Tie) -> None:
        self.pid = process.pid
        self._process = process
        self._guard = guard
        self._tie = tie
        self._log = log
        self._output = output
        self._output_ended = asyncio.Event()
        os.set_blocking(output, False)
        asyncio.get_running_loop().add_reader(output, self._read)
        self.exited: asyncio.Task[int] = asyncio.create_task(self._wait(), name=f"exit of {process.pid}")

    @classmethod
    def start(cls, program: Program, log: PodLog, guard: Guard) -> PodProcess:
        """Start ``program``. Raises LocalRuntimeError if the machine can't."""
        tie = Tie()
        output, theirs = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603 - what a manifest names is run on purpose
                program.argv,
                env={**program.env, PARENT_FD_ENV: str(tie.read_end)},
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=subprocess.STDOUT,
                pass_fds=(tie.read_end,),
                start_new_session=True,
            )
        except OSError as error:
            tie.cut()
            os.close(output)
            raise LocalRuntimeError(f"Can't start {program.argv[0]}: {error.strerror}.") from None
        finally:
            tie.passed_on()
            os.close(theirs)
        guard.register(process.pid)
        return cls(process, output, log, guard, tie)

    async def stop(self, grace_seconds: float) -> int:
        """Ask the leader to go, and kill the whole group if it has not gone in time. Returns the return code."""
        if not self.exited.done():
            self._process.send_signal(signal.SIGTERM)
            await asyncio.wait({self.exited}, timeout=grace_seconds)
        self.kill()
        return await asyncio.shield(self.exited)

    def kill(self) -> None:
        """Kill the leader and every process it has started, at once."""
        if not self.exited.done():
            _kill_group(self.pid)

    async def _wait(self) -> int:
        await _exit_of(self.pid)
        # Before the leader is reaped its number is certainly still its group's. Kill what it has left behind.
        _kill_group(self.pid)
        code = self._process.wait()
        self._guard.forget(self.pid)
        self._tie.cut()
        with suppress(TimeoutError):
            async with asyncio.timeout(OUTPUT_SECONDS):
                await self._output_ended.wait()
        asyncio.get_running_loop().remove_reader(self._output)
        os.close(self._output)
        return code

    def _read(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._output, READ_BYTES)
            if data:
                self._log.write(data)
            else:
                asyncio.get_running_loop().remove_reader(self._output)
                self._output_ended.set()


async def _exit_of(pid: int) -> None:
    """Return when a child has ended; it is left to be reaped."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


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
