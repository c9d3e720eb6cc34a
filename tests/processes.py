"""Ports and processes of this machine, for tests and measurements."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Iterable
from pathlib import Path

from paceline.local.ports import can_bind

FIRST, LAST = 10_000, 14_999
"""Below what the kernel hands out to outgoing connections, and what ``paceline up`` takes."""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, at any address; nobody else who asks is given them while this process runs.

    One from the kernel's own range would be free now and an outgoing connection's a moment later, and engines are
    started anew on theirs after minutes. Whoever asks may listen only seconds later, when others, here and in the
    processes that test side by side, have asked as well. Raises RuntimeError where there are not so many.
    """
    found: list[int] = []
    for port in random.SystemRandom().sample(range(FIRST, LAST + 1), LAST + 1 - FIRST):
        if len(found) == count:
            break
        if can_bind("", port) and _claim(port):
            found.append(port)
    if len(found) < count:
        raise RuntimeError(f"no {count} free ports between {FIRST} and {LAST}")
    return found


_claims: dict[int, socket.socket] = {}
"""One for each port that was given away. The kernel drops them when this process ends, however it ends."""


def _claim(port: int) -> bool:
    """Whether the port is now this process's to give away. Only a name is taken: the port itself stays free."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        claim.bind(f"\0paceline-test-port-{port}")
    except OSError:
        claim.close()
        return False
    _claims[port] = claim
    return True


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
