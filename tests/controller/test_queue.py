from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Gauge

from paceline.controller import queue as module
from paceline.controller.queue import WorkQueue


@pytest.fixture
def queue() -> WorkQueue[str]:
    return WorkQueue(Gauge("length", "of the queue", registry=CollectorRegistry()))


async def taken(queue: WorkQueue[str]) -> str:
    async with asyncio.timeout(60):
        return await queue.get()


async def test_keys_come_in_the_order_in_which_they_are_due(queue: WorkQueue[str]) -> None:
    queue.add("late", 0.02)
    queue.add("soon", 0.01)
    queue.add("now")
    assert [await taken(queue) for _ in range(3)] == ["now", "soon", "late"]


async def test_a_key_that_waits_already_is_not_added_twice_but_moves_forward(queue: WorkQueue[str]) -> None:
    queue.add("a", 3600)
    queue.add("a")
    queue.add("a", 60)
    assert len(queue) == 1
    assert await taken(queue) == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_nobody_else_gets_a_key_that_is_worked_on(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert await taken(queue) == "a"
    queue.add("a")
    queue.add("b", 0.01)
    assert await taken(queue) == "b"
    queue.done("a")
    assert await taken(queue) == "a"


async def test_workers_that_wait_are_woken(queue: WorkQueue[str]) -> None:
    waiting = [asyncio.create_task(taken(queue)) for _ in range(2)]
    await asyncio.sleep(0)
    queue.add("a")
    queue.add("b")
    assert set(await asyncio.gather(*waiting)) == {"a", "b"}


async def test_failures_in_a_row_are_spaced_out_up_to_a_bound(queue: WorkQueue[str]) -> None:
    pauses = [queue.retry("a") for _ in range(12)]
    assert pauses[0] < 1
    assert pauses[3] > pauses[0]
    assert all(pause <= module.LONGEST_BACKOFF_SECONDS * 1.25 for pause in pauses)
    assert pauses[-1] >= module.LONGEST_BACKOFF_SECONDS * 0.75
    queue.succeeded("a")
    assert queue.retry("a") < 1
