"""Ports and processes of this machine, for tests and measurements."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterable
from pathlib import Path

from paceline.local.ports import can_bind

FIRST, LAST = 10_000, 14_999
"""Below what the kernel hands out to outgoing connections, and what ``paceline up`` takes."""


def free_ports(count: int) -> list[int]:
    """Different ports that nobody listens on, at any address. One from the kernel's own range would be free now and an
    outgoing connection's a moment later, and engines are started anew on theirs after minutes.
    """
    dice = random.SystemRandom()
    found: set[int] = set()
    while len(found) < count:
        port = dice.randint(FIRST, LAST)
        if can_bind("", port):
            found.add(port)
    return list(found)


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
