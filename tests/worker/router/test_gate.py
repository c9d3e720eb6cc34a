"""Places are given in the common order, never twice, and a queue that nobody serves does not grow for ever."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from types import SimpleNamespace
from typing import cast

import pytest
import uvloop

from paceline.api import wire
from paceline.policy.routing.cost import RequestView
from paceline.policy.routing.fleet import NominalModel
from paceline_worker.http.message import Response
from paceline_worker.http.upstream import Exchange
from paceline_worker.router.errors import ApiError
from paceline_worker.router.fleet import Fleet
from paceline_worker.router.gate import Gate
from paceline_worker.router.parse import Kind, Rules, parse
from paceline_worker.router.places import Place
from paceline_worker.router.resume.transcript import Transcript
from paceline_worker.router.settings import placement_settings
from paceline_worker.router.yielding import Guest
from tests.worker.router.fakes import config

VIEW = RequestView(prompt_tokens=10)


class Ask:
    """A request that always looks the same."""

    def __init__(self, view: RequestView, held_bytes: int = 1000, *, begun: bool = False) -> None:
        self._view = view
        self.begun = begun
        self.claims = view.priority >= 0
        self.guest: Guest | None = None
        self.held_bytes = held_bytes
        self.priority = view.priority

    def view(self) -> RequestView:
        return self._view

    def decided(self, view: RequestView, engines: object, placement: object) -> None:
        """Nothing to do."""


class Bench:
    def __init__(self, tenancy: wire.Tenancy | None = None, **admission: int | wire.Late) -> None:
        limits = wire.Admission(**({"max_running_per_engine": 1, "max_queued_requests": 10_000} | admission))  # type: ignore[arg-type]
        settings = config(admission=limits, tenancy=tenancy)
        self.fleet = Fleet(on_change=lambda: None, on_gone=lambda _: None)
        model = NominalModel()
        self.gate = Gate(self.fleet, placement_settings(settings, model), model, settings, lambda: 0.0)

    def engines(self, *names: str, prefill: tuple[str, ...] = ()) -> None:
        role = wire.Role.DECODE if prefill else wire.Role.BOTH
        roles = [*((name, role) for name in names), *((name, wire.Role.PREFILL) for name in prefill)]
        endpoint = {"host": "h", "port": 1, "state": wire.EngineState.READY, "start_id": "1"}
        engines = tuple(wire.EngineEndpoint(name=name, role=role, **endpoint) for name, role in roles)  # type: ignore[arg-type]
        self.fleet.apply(wire.Fleet(version=1, engines=engines))
        self.gate.wake()

    async def waiting(self, view: RequestView = VIEW) -> asyncio.Task[Place]:
        task = asyncio.create_task(self.gate.place(Ask(view)))
        await asyncio.sleep(0)
        return task


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


async def test_a_prefill_engine_gets_its_next_prompt_before_it_says_that_it_is_done_with_one() -> None:
    bench = Bench(max_running_per_engine=100)
    bench.engines("d", prefill=("p",))
    prompt = RequestView(prompt_tokens=4000)  # 0.41 s there, of which the last 0.21 s may have another wait behind
    first = await bench.gate.place(Ask(prompt))
    second = await bench.waiting(prompt)
    third = await bench.waiting(prompt)
    assert bench.gate.waiting == 2, "an engine's own queue knows no order"
    assert (await second).prefill is first.prefill
    assert not third.done(), "of what the first takes, nobody knows whether it is done"
    first.prefill_done()
    assert (await third).prefill is first.prefill
    for place in (first, second.result(), third.result()):
        place.release()
    assert bench.gate.waiting == 0


async def test_a_prompt_goes_to_the_engine_that_is_free_although_another_is_busy() -> None:
    bench = Bench(max_running_per_engine=100)
    bench.engines("d", prefill=("p", "q"))
    long = RequestView(prompt_tokens=100_000)
    first, second = await bench.gate.place(Ask(long)), await bench.gate.place(Ask(long))
    assert {first.prefill, second.prefill} == {bench.fleet.engines["p"], bench.fleet.engines["q"]}
    third = await bench.waiting(RequestView(prompt_tokens=4000))
    assert not third.done()
    second.prefill_done()
    assert (await third).prefill is second.prefill
    for place in (first, second, third.result()):
        place.release()


STREAM = RequestView(prompt_tokens=10, output_tokens=1000)
PROMPT = RequestView(prompt_tokens=20_000, output_tokens=10)


def roles(bench: Bench, **changed: wire.Role) -> None:
    """The same engines in other roles."""
    endpoint = {"host": "h", "port": 1, "state": wire.EngineState.READY, "start_id": "1"}
    engines = tuple(wire.EngineEndpoint(name=name, role=role, **endpoint) for name, role in changed.items())  # type: ignore[arg-type]
    bench.fleet.apply(wire.Fleet(version=bench.fleet.version + 1, engines=engines))
    bench.gate.wake()


async def between_two_roles() -> tuple[Bench, Place]:
    """An engine that has become a prefill engine and still runs a stream, beside one that decodes."""
    bench = Bench(max_running_per_engine=100)
    roles(bench, a=wire.Role.DECODE)
    stream = await bench.gate.place(Ask(STREAM))
    roles(bench, a=wire.Role.PREFILL, b=wire.Role.DECODE)
    return bench, stream


async def test_an_engine_that_still_has_streams_computes_one_prompt_at_a_time_and_then_rests() -> None:
    bench, stream = await between_two_roles()
    first = await bench.gate.place(Ask(PROMPT))
    assert first.prefill is not None
    assert first.prefill.name == "a"
    second = await bench.waiting(PROMPT)
    first.prefill_done()
    await asyncio.sleep(0)
    assert not second.done()
    # When its streams have ended there is nothing to rest for.
    stream.release()
    assert (await second).prefill is first.prefill
    second.result().release()
    first.release()


async def test_an_engine_rests_for_as_long_as_its_streams_need_and_then_gets_the_next_prompt() -> None:
    bench, stream = await between_two_roles()
    first = await bench.gate.place(Ask(RequestView(prompt_tokens=300)))
    second = await bench.waiting(RequestView(prompt_tokens=300))
    first.prefill_done()
    async with asyncio.timeout(30):
        assert (await second).prefill is first.prefill
    for place in (first, second.result(), stream):
        place.release()


async def test_a_prompt_that_will_be_late_waits_for_an_engine_without_streams() -> None:
    bench, stream = await between_two_roles()
    hopeless = RequestView(prompt_tokens=20_000, output_tokens=10, ttft_seconds=0.001)
    alone = await bench.gate.place(Ask(hopeless))
    assert alone.prefill is not None  # nobody else could do it
    alone.release()
    roles(bench, a=wire.Role.PREFILL, b=wire.Role.DECODE, c=wire.Role.PREFILL)
    places = [await bench.gate.place(Ask(hopeless))]
    assert places[0].prefill is not None
    assert places[0].prefill.name == "c"
    waits = await bench.waiting(hopeless)
    assert not waits.done()
    places[0].prefill_done()
    places.append(await waits)
    assert places[1].prefill is places[0].prefill
    for place in (*places, stream):
        place.release()


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


class Stream(Guest):
    """A batch stream that can give way, and does at once."""

    def __init__(self, bench: Bench, tokens: int = 0) -> None:
        body = b'{"model":"test-model","prompt":"x","stream":true}'
        rules = Rules(frozenset({"test-model"}), frozenset(), None, wire.Media.REFUSE)
        call = parse(Kind.COMPLETION, body, rules)
        super().__init__(call, -1, tokens, cast("Response", SimpleNamespace(started=False)))
        self.transcript = Transcript(show_ids=False)
        self._bench = bench
        self._hosted = ExitStack()
        self.place: Place | None = None

    async def run(self) -> Stream:
        self.place = place = await self._bench.gate.place(Ask(RequestView(prompt_tokens=10, priority=-1)))
        exchange = cast("Exchange", SimpleNamespace(reject=lambda _: asyncio.get_running_loop().call_soon(self.end)))
        self._hosted.enter_context(self._bench.gate.guests.hosted(self, place.decode.name, exchange))
        return self

    def end(self) -> None:
        self._hosted.close()
        if self.place is not None:
            self.place.release()
            self.place = None


async def test_the_room_of_those_who_give_way_goes_to_those_they_gave_way_to() -> None:
    bench = Bench(max_running_per_engine=4)
    bench.engines("a")
    streams = [await Stream(bench, tokens).run() for tokens in (30, 10, 20)]
    first = await bench.gate.place(Ask(VIEW))
    behind = await bench.waiting(RequestView(prompt_tokens=10, priority=-1))
    came = [await bench.waiting() for _ in range(2)]
    places = await asyncio.gather(*came)
    assert [one.place is None for one in streams] == [False, True, True], "the youngest two"
    assert not behind.done()
    for place in (first, *places):
        place.release()
    (await behind).release()
    streams[0].end()


async def test_a_batch_stream_that_broke_has_no_other_give_way() -> None:
    bench = Bench(max_running_per_engine=2)
    bench.engines("a")
    stream = await Stream(bench).run()
    running = await bench.gate.place(Ask(VIEW))
    broken = Ask(RequestView(prompt_tokens=10, priority=1000), begun=True)
    broken.claims = False
    waits = asyncio.create_task(bench.gate.place(broken))
    await asyncio.sleep(0.01)
    assert stream.place is not None
    assert not waits.done()
    running.release()
    (await waits).release()
    stream.end()


async def test_those_who_lack_a_prefill_engine_have_only_one_stream_give_way_for_them() -> None:
    bench = Bench(max_running_per_engine=8)
    bench.engines("a", prefill=("p",))
    streams = [await Stream(bench).run() for _ in range(7)]
    first = await bench.gate.place(Ask(VIEW))
    long = [await bench.waiting(RequestView(prompt_tokens=20_000)) for _ in range(4)]
    placed = await long[0]
    await asyncio.sleep(0.01)
    assert placed.prefill is not None
    assert sum(one.place is None for one in streams) == 2, "one for who was placed, one for the three others"
    for task in long[1:]:
        task.cancel()
    await asyncio.gather(*long[1:], return_exceptions=True)
    for one in streams:
        one.end()
    placed.release()
    first.release()
