"""Places are given in the common order, never twice, and a queue that nobody serves does not grow for ever."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from paceline.api import wire
from paceline.policy.routing.cost import RequestView
from paceline_worker.router.errors import ApiError
from paceline_worker.router.places import Place
from tests.worker.router.gates import VIEW, Ask, Bench


async def test_room_goes_to_the_one_who_waits_not_to_the_one_who_just_came() -> None:
    bench = Bench()
    bench.engines("a")
    first = await bench.gate.place(Ask(VIEW))
    second = await bench.waiting()
    first.release()
    third = await bench.waiting()
    assert (await second).decode.name == "a"
    assert not third.done()
    second.result().release()
    (await third).release()


async def test_a_request_that_leaves_in_the_moment_it_is_placed_gives_its_place_back() -> None:
    bench = Bench()
    bench.engines("a")
    first = await bench.gate.place(Ask(VIEW))
    second = await bench.waiting()
    first.release()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    (await bench.gate.place(Ask(VIEW))).release()


async def test_one_who_avoids_an_engine_takes_it_rather_than_waiting_for_a_full_one() -> None:
    bench = Bench()
    bench.engines("a", "b")
    first, second = await bench.gate.place(Ask(VIEW)), await bench.gate.place(Ask(VIEW))
    retried = await bench.waiting(RequestView(prompt_tokens=10, avoid=frozenset({first.decode.name})))
    first.release()
    assert (await retried).decode.name == first.decode.name
    retried.result().release()
    second.release()


async def test_the_one_past_the_end_of_the_queue_is_told_when_to_come_again() -> None:
    bench = Bench(max_queued_requests=1, max_queue_seconds=30)
    waits = await bench.waiting()
    with pytest.raises(ApiError) as caught:
        await bench.gate.place(Ask(VIEW))
    assert (caught.value.status, caught.value.retry_after) == (429, 30)
    waits.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waits


async def test_a_tenant_that_fills_the_queue_keeps_no_other_out_of_it() -> None:
    tenants = (wire.Tenant(name="flood"), wire.Tenant(name="quiet"))
    bench = Bench(tenancy=wire.Tenancy(tenants=tenants), max_queued_requests=4)
    flood, quiet = (RequestView(prompt_tokens=10, tenant=name) for name in ("flood", "quiet"))
    waiting = [await bench.waiting(flood) for _ in range(4)]
    with pytest.raises(ApiError, match="4 requests wait already"):
        await bench.gate.place(Ask(flood))
    waiting += [await bench.waiting(quiet) for _ in range(2)]
    assert bench.gate.waiting == 6
    with pytest.raises(ApiError, match="6 requests wait already"):
        await bench.gate.place(Ask(quiet))
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    waiting = [await bench.waiting(flood) for _ in range(4)]
    waiting.append(await bench.waiting(quiet))
    assert bench.gate.waiting == 5
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_who_would_wait_in_vain_is_refused_at_once() -> None:
    bench = Bench(max_queue_seconds=2)
    bench.engines("a")
    running = await bench.gate.place(Ask(VIEW))
    waiting = [await bench.waiting() for _ in range(40)]
    await asyncio.sleep(0.05)
    for served in range(4):  # then it stands still
        running.release()
        running = await waiting[served]
    waiting, refused = waiting[4:], None
    async with asyncio.timeout(1.5):  # long before the queue's deadline
        while refused is None:
            await asyncio.sleep(0.01)
            task = await bench.waiting()
            refused = task.exception() if task.done() else None
            waiting += [task] if refused is None else []
    assert isinstance(refused, ApiError)
    assert (refused.status, refused.reason) == (429, "in-vain")
    assert refused.retry_after
    resumed = asyncio.create_task(bench.gate.place(Ask(VIEW, begun=True)))
    await asyncio.sleep(0)
    assert not resumed.done(), "a stream that has begun is not refused"
    running.release()
    for task in (*waiting, resumed):
        task.cancel()
    for ended in await asyncio.gather(*waiting, resumed, return_exceptions=True):
        if isinstance(ended, Place):
            ended.release()
    assert (bench.gate.waiting, bench.gate.queued_bytes) == (0, 0)


async def test_late_requests_that_are_too_many_are_given_up_before_the_end_of_their_wait() -> None:
    bench = Bench(max_queue_seconds=3, late=wire.Late.REFUSE)
    bench.engines("a")
    running = await bench.gate.place(Ask(VIEW))
    waits = await bench.waiting(RequestView(prompt_tokens=10, ttft_seconds=0.01))
    async with asyncio.timeout(2):
        while not waits.done():
            await asyncio.sleep(0.02)
            bench.gate.tick(0.02)
    with pytest.raises(ApiError, match="as can be served in time"):
        waits.result()
    running.release()
    (await bench.gate.place(Ask(VIEW))).release()


async def test_requests_wait_only_as_long_as_memory_is_left_for_them() -> None:
    bench = Bench(max_queued_bytes=10_000)
    large = await bench.waiting()
    large.cancel()
    first = asyncio.create_task(bench.gate.place(Ask(VIEW, 20_000)))  # one may always wait, however large
    await asyncio.sleep(0)
    assert bench.gate.queued_bytes == 20_000
    with pytest.raises(ApiError, match="20000 bytes") as caught:
        await bench.gate.place(Ask(VIEW, 1))
    assert (caught.value.status, caught.value.reason) == (429, "queue-memory")
    first.cancel()
    await asyncio.gather(first, large, return_exceptions=True)
    assert bench.gate.queued_bytes == 0


async def test_work_of_low_priority_leaves_room_for_what_comes_and_goes_behind_it() -> None:
    bench = Bench(max_running_per_engine=8)
    bench.engines("a")
    batch = RequestView(prompt_tokens=10, priority=-1)
    running = [await bench.gate.place(Ask(batch)) for _ in range(7)]
    waits = await bench.waiting(batch)
    assert not waits.done()
    interactive = await bench.waiting()
    assert (await interactive).decode.name == "a"
    running.pop().release()
    assert not waits.done(), "seven others still run"
    interactive.result().release()
    running += [await waits]
    for place in running:
        place.release()


async def test_a_request_that_wakes_a_sleeping_deployment_is_held_past_the_queue_deadline() -> None:
    bench = Bench(max_queue_seconds=1, max_wake_seconds=3600)
    held = await bench.waiting()
    async with asyncio.timeout(30):
        await asyncio.sleep(1.2)
        assert not held.done()
        bench.engines("a")
        (await held).release()


async def test_without_leave_to_sleep_a_request_waits_no_longer_than_the_queue_deadline() -> None:
    with pytest.raises(ApiError, match="No engine for 1 s"):
        await Bench(max_queue_seconds=1).gate.place(Ask(VIEW))


async def test_an_empty_queue_has_no_prefill_work() -> None:
    bench = Bench()
    bench.engines("a")
    first = await bench.gate.place(Ask(VIEW))
    second = await bench.waiting()
    assert bench.gate.queued_seconds == 0.0, "it waits for room to decode, not for prefill"
    first.release()
    (await second).release()
    assert bench.gate.queued_seconds == 0.0


def test_an_alarm_that_is_due_at_once_may_be_set_again() -> None:
    async def main() -> None:
        bench = Bench()
        # As on a machine that is so busy that the time to wake is over when the alarm is set.
        loop = asyncio.get_running_loop()
        bench.gate.now = lambda: loop.time() - 1.0  # type: ignore[method-assign]
        for _ in range(2):
            bench.gate._wake_in(0.0)
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
