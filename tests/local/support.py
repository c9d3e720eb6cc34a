"""What the tests of the local runtime share: fake programs, and questions about processes."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

from paceline.local.process import Program

FAKE_POD = Path(__file__).with_name("fakepod.py")


def python(code: str, **env: str) -> Program:
    """A program that runs Python code."""
    return Program((sys.executable, "-u", "-c", code), {**os.environ, **env})


def fake_pod(**env: str) -> Program:
    """The fake pod with FAKE_ variables."""
    return Program((sys.executable, str(FAKE_POD)), {**os.environ, **env})


def alive(pid: int) -> bool:
    """Whether a process runs: neither gone nor a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Return when ``condition`` holds; fail if it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what other processes do sets no event
            await asyncio.sleep(0.01)
