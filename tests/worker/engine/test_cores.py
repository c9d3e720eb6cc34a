"""What lets two CPU engines live on one machine."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import AsyncIterator

import pytest

from paceline_worker.engine.cores import share_cores
from paceline_worker.engine.process import ChildProcess

POLLER = """
import os, threading
def poll():
    while True: pass
def rest(): threading.Event().wait()
threads = [threading.Thread(target=each, daemon=True) for each in (poll, rest)]
for thread in threads: thread.start()
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(*(thread.native_id for thread in threads))
threading.Event().wait()
"""


@pytest.fixture
async def engine() -> AsyncIterator[tuple[int, int, int]]:
    """A process whose main thread is pinned to a core: ids of itself, of its polling thread, and of one that rests."""
    child = await ChildProcess.start([sys.executable, "-uc", POLLER], os.environ, prefix="", output=io.StringIO())
    try:
        while not child.lines:
            assert child.alive
            await asyncio.sleep(0.01)
        polling, resting = map(int, child.lines[0].split())
        yield child.pid, polling, resting
    finally:
        await child.stop(0)


async def test_a_pinned_worker_may_use_every_core_again(engine: tuple[int, int, int]) -> None:
    main, _, _ = engine
    assert len(os.sched_getaffinity(main)) == 1
    await share_cores([main])
    assert os.sched_getaffinity(main) == os.sched_getaffinity(0)


async def test_only_threads_that_never_rest_give_way_to_all_others(engine: tuple[int, int, int]) -> None:
    main, polling, resting = engine
    await share_cores([main])
    assert [os.sched_getscheduler(thread) for thread in (main, polling, resting)] == [
        os.SCHED_OTHER,
        os.SCHED_IDLE,
        os.SCHED_OTHER,
    ]


async def test_a_worker_that_has_ended_is_passed_over(engine: tuple[int, int, int]) -> None:
    main, polling, _ = engine
    ended = await ChildProcess.start([sys.executable, "-c", ""], os.environ, prefix="", output=io.StringIO())
    await ended.wait()
    await share_cores([ended.pid, main])
    assert os.sched_getscheduler(polling) == os.SCHED_IDLE
