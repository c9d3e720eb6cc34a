"""Lets several CPU engines share a machine. Called by the worker when its engine is ready.

vLLM makes two choices for an engine that has its cores to itself: its NIXL connector pins each worker process to the
last core of a NUMA node, and NIXL polls for transfers in a thread that never sleeps. Two engines then share one core,
and threads that never end their turn keep others off both. The other half of the cure is ``vllm_plugin.py``;
docs/decisions/0033-cpu-engines-share-cores.md has the reasons and the figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from paceline_worker.engine.process import LINUX

SAMPLES: Final = 10
SAMPLE_SECONDS: Final = 0.1
"""An engine that has just answered its warm-up request rests: what runs in each sample polls."""

log = logging.getLogger(__name__)


async def share_cores(workers: Iterable[int]) -> None:
    """Unpin vLLM's worker processes ``workers``, and let their polling threads run only when nothing else wants to.

    Takes a second. Does nothing where there is no /proc, and passes over what ends meanwhile.
    """
    found = tuple(workers)
    if not LINUX or not found:
        return
    polling = await _always_running(found)
    allowed = os.sched_getaffinity(0)
    for pid in found:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, allowed)
    for thread in polling:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    log.info("CPU engine: %d processes unpinned, %d polling threads run when idle.", len(found), len(polling))


async def _always_running(processes: tuple[int, ...]) -> list[int]:
    """Threads, main threads apart, that are on a core or wait for one in every sample."""
    seen: Counter[int] = Counter()
    for _ in range(SAMPLES):
        await asyncio.sleep(SAMPLE_SECONDS)
        seen.update(thread for pid in processes for thread in _running(pid) if thread != pid)
    return [thread for thread, times in seen.items() if times == SAMPLES]


def _running(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            stat = (thread / "stat").read_text()
            # The name in brackets may itself hold blanks and brackets.
            if stat[stat.rindex(")") + 2 :].startswith("R"):
                found.append(int(thread.name))
    return found
