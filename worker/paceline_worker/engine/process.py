"""One child process and everything it starts: started, listened to, and stopped without a survivor. Called by the
worker.

vLLM is a tree of processes (API server, engine core, a worker an accelerator). On Linux the worker process is made the
reaper of its descendants, so a grandchild whose parent died is found and killed like any other, and the child is killed
by the kernel if the worker itself dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, TextIO, TypeAlias

KEPT_LINES: Final = 400
"""Lines of a child's output that are kept for a message about its end."""
LINE_LIMIT: Final = 16 * 1024
"""Bytes; a longer line is forwarded in pieces."""
KILL_ROUNDS: Final = 20
KILL_PAUSE_SECONDS: Final = 0.05
PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
LINUX: Final = sys.platform == "linux"

Alarming: TypeAlias = "Callable[[str], str | None]"
"""What a line says that must not wait until the child ends; None where it says no such thing."""


class ChildProcess:
    """A running child. Make one with :meth:`start`."""

    __slots__ = ("_alarm", "_lines", "_process", "_reader", "_waiter")

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: threading.Thread,
        lines: deque[str],
        alarm: asyncio.Future[str],
    ) -> None:
        self._alarm = alarm
        self._process = process
        self._reader = reader
        self._lines = lines
        self._waiter = asyncio.create_task(process.wait(), name="wait for the child")

    @classmethod
    async def start(
        cls,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        prefix: str,
        output: TextIO,
        alarming: Alarming = lambda _: None,
    ) -> ChildProcess:
        """Start ``argv``; its lines go to ``output`` behind ``prefix``, and the first that is ``alarming`` ends
        :meth:`wait_for_alarm`. Raises OSError when it can't be started.
        """
        become_reaper()
        loop = asyncio.get_running_loop()
        alarm: asyncio.Future[str] = loop.create_future()

        def heard(line: str) -> None:
            found = None if alarm.done() else alarming(line)
            if found is not None:
                # The loop is closed once nobody waits for its child any more.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_raise_alarm, alarm, found)

        receiving, sending = os.pipe()
        with contextlib.ExitStack() as unless_started:
            unless_started.callback(os.close, receiving)
            try:
                process = await asyncio.create_subprocess_exec(
                    *argv,
                    env=dict(env),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=sending,
                    stderr=sending,
                    preexec_fn=_die_with(os.getpid()),
                )
            finally:
                os.close(sending)
            unless_started.pop_all()
        lines: deque[str] = deque(maxlen=KEPT_LINES)
        # A thread, not a task: whoever reads our output may be slow, and that must not stop the health checks.
        reader = threading.Thread(
            target=_forward, args=(os.fdopen(receiving, "rb"), prefix, output, lines, heard), daemon=True,
            name="child output",
        )  # fmt: skip
        reader.start()
        return cls(process, reader, lines, alarm)

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended yet."""
        return not self._waiter.done()

    @property
    def lines(self) -> tuple[str, ...]:
        """The last lines of its output, oldest first."""
        return tuple(self._lines)

    async def wait(self) -> int:
        """Wait for its end. Exit status, or minus the signal's number."""
        return await asyncio.shield(self._waiter)

    async def wait_for_alarm(self) -> str:
        """Wait for a line that is alarming; what it says."""
        return await asyncio.shield(self._alarm)

    async def drain_output(self, seconds: float) -> None:
        """Wait until its output has been read to the end, at most ``seconds``: descendants may keep it open."""
        await asyncio.to_thread(self._reader.join, seconds)

    async def stop(self, grace_seconds: float) -> int:
        """Ask it to end, kill it after ``grace_seconds``, and kill what it leaves behind. Exit status.

        May be called again, and after a call that was cancelled.
        """
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    await self.wait()
        for _ in range(KILL_ROUNDS):
            left = kill_descendants()
            if not left and not self.alive:
                break
            await asyncio.sleep(KILL_PAUSE_SECONDS)
        else:
            if self.alive:
                self._process.kill()
        return await self.wait()


def describe_exit(status: int) -> str:
    """An exit status in words: ``exit status 1`` or ``SIGKILL``."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def become_reaper() -> None:
    """Let orphaned descendants become this process's children instead of init's (Linux)."""
    if LINUX:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_descendants() -> list[int]:
    """Kill every process below this one, at once, and give back those that were still there (Linux; else none)."""
    found = descendants(os.getpid())
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def named_descendants(prefix: str) -> dict[int, str]:
    """Id -> title of the processes below this one whose title starts with ``prefix`` (Linux; else none)."""
    found = {}
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace").strip()
            if title.startswith(prefix):
                found[pid] = title
    return found


async def wait_for_any(pids: Iterable[int]) -> int:
    """Wait until one of these processes, children or not, ends; its id. Never returns where there are none."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    with contextlib.ExitStack() as opened:
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                return pid
            opened.callback(os.close, descriptor)
            loop.add_reader(descriptor, _settle, ended, pid)
            opened.callback(loop.remove_reader, descriptor)
        return await ended


def _raise_alarm(alarm: asyncio.Future[str], found: str) -> None:
    if not alarm.done():
        alarm.set_result(found)


def _settle(ended: asyncio.Future[int], pid: int) -> None:
    if not ended.done():
        ended.set_result(pid)


def descendants(root: int) -> list[int]:
    """Ids of the live processes below ``root``, parents first; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "stat").read_text()
        except OSError:  # it ended meanwhile
            continue
        # The name in brackets may itself hold blanks and brackets.
        state, parent = text[text.rindex(")") + 2 :].split()[:2]
        if state != "Z":
            children.setdefault(int(parent), []).append(int(entry.name))
    found: list[int] = []
    frontier = [root]
    while frontier:
        frontier = [child for parent in frontier for child in children.get(parent, ())]
        found += frontier
    return found


def _die_with(parent: int) -> Callable[[], None] | None:
    """What a child runs before ``exec``: have the kernel kill it when ``parent`` dies. System calls only."""
    if not LINUX:
        return None
    prctl = ctypes.CDLL(None).prctl

    def in_child() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return in_child


def _forward(pipe: BinaryIO, prefix: str, output: TextIO, lines: deque[str], heard: Callable[[str], None]) -> None:
    with pipe:
        while raw := pipe.readline(LINE_LIMIT):
            line = raw.decode(errors="replace").rstrip()
            lines.append(line)
            heard(line)
            with contextlib.suppress(BrokenPipeError):
                output.write(f"{prefix}{line}\n")
                output.flush()
