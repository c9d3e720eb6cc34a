"""The guardian: a small process that outlives ``paceline up`` by a moment and leaves nothing of it running.

``python -m paceline.local.guardian`` reads lines from its standard input, a pipe whose other end only its parent holds:
``+PID START`` registers a process group (START is its leader's start time in clock ticks, see :func:`start_time`),
``-PID`` forgets it. At the end of input, which the kernel brings about however the parent dies, it kills every
registered group and exits. :mod:`paceline.local.guard` starts it and talks to it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

MAX_GROUPS: Final = 4096
"""More than any machine runs pods; what comes after is refused loudly rather than held without bound."""


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none. Tells a process from a later one
    that got its number.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[19])


def watch(lines: Iterable[str]) -> dict[int, int]:
    """Follow the parent's lines until they end; the groups that are registered then, with their start times."""
    groups: dict[int, int] = {}
    for line in lines:
        sign, fields = line[:1], line[1:].split()
        if sign == "+" and len(fields) == 2 and len(groups) < MAX_GROUPS:
            groups[int(fields[0])] = int(fields[1])
        elif sign == "-" and len(fields) == 1:
            groups.pop(int(fields[0]), None)
        else:
            sys.stderr.write(f"guardian: can't follow {line!r}\n")
    return groups


def kill_groups(groups: dict[int, int]) -> None:
    """Kill every group, unless its number belongs to a process that started at another time."""
    for group, started in groups.items():
        now = start_time(group)
        # A leader that is gone (None) may have left members, and while it has any the kernel gives its number to no
        # one.
        if now is not None and now != started:
            continue
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


def main() -> None:
    """Entry point of the process."""
    # Signals to the parent's terminal or session are not for this process: it goes when the parent has gone.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    kill_groups(watch(sys.stdin))


if __name__ == "__main__":
    main()
