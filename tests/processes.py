"""Ports and processes of this machine, for tests and measurements."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on; all held open while choosing, so that they differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def is_running(pid: int) -> bool:
    """Whether a process runs: neither gone nor a zombie."""
    try:
        return _stat(pid)[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pids: Iterable[int]) -> None:
    """Wait until none of them runs."""
    left = list(pids)
    while any(is_running(pid) for pid in left):  # noqa: ASYNC110  # nobody tells of the end of a process not one's own
        await asyncio.sleep(0.02)


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process since it started."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    """Fields from the state on. The name before it may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
