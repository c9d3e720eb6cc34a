"""A request waits while one more stream would make those of every decode engine miss their objective, in the order in
which all wait, and not for ever.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Final, cast

import msgspec
import pytest

from paceline.api import wire
from paceline.policy.routing.cost import RequestView
from paceline.policy.routing.crowding import LEAST_SPEED, Crowding
from paceline.policy.routing.fleet import EngineModel, FasterModel, NominalModel
from paceline.policy.scaling.profiles import get_profile
from paceline_worker.router.fleet import Reported
from paceline_worker.router.places import Place
from paceline_worker.router.settings import placement_settings
from paceline_worker.router.yielding import Guest
from tests.worker.router import fakes
from tests.worker.router.fakes import config
from tests.worker.router.gates import VIEW, Ask, Bench
from tests.worker.router.test_gate_yielding import Stream

MODEL: Final = replace(get_profile("qwen3-32b-h200-tp2"), step_sequence=0.01, step_context=1e-8)
"""Each stream adds 10 ms to a step of 11 ms, so that three keep to the 50 ms of the objective."""
FITTING: Final = 3
AGE_BOUND: Final = 45
"""Seconds: three quarters of the longest wait."""
HOPELESS: Final = RequestView(prompt_tokens=10, ttft_seconds=0.001)


def bench(model: EngineModel = MODEL, prefill: tuple[str, ...] = ("p",), **changed: object) -> Bench:
    made = Bench(model=model, max_running_per_engine=100, **changed)  # type: ignore[arg-type]
    made.engines("d", prefill=prefill)
    return made


async def crowd(bench: Bench, engines: int = 1) -> list[Place]:
    """As many streams as there may be."""
    places = [await bench.gate.place(Ask(VIEW)) for _ in range(engines * FITTING)]
    assert bench.gate.waiting == 0
    return places


def later(bench: Bench, seconds: float) -> None:
    """The clock of the gate goes on, and it looks around as it does every second."""
    loop, now = asyncio.get_running_loop(), bench.gate.now
    passed = now() - loop.time() + seconds
    bench.gate.now = lambda: loop.time() + passed  # type: ignore[method-assign]
    bench.gate.tick(1.0)
    bench.gate.wake()


async def end(bench: Bench, *held: Place | asyncio.Task[Place]) -> None:
    """Give everything back, so that nobody waits any more."""
    tasks = [one for one in held if isinstance(one, asyncio.Task)]
    for one in held:
        if isinstance(one, Place):
            one.release()
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Place):
            result.release()
    assert bench.gate.waiting == 0
    assert sum(engine.running for engine in bench.fleet) == 0


async def test_a_request_waits_while_engines_are_crowded_and_is_placed_when_a_stream_ends() -> None:
    gate = bench()
    streams = await crowd(gate)
    waits = await gate.waiting()
    assert not waits.done()
    assert (gate.gate.queued_decode, gate.gate.waiting) == (1, 1)
    gate.gate.wake()
    assert not waits.done(), "nothing has ended"
    streams.pop().release()
    assert (await waits).decode.name == "d"
    assert gate.gate.queued_decode == 0
    await end(gate, *streams, waits)


async def test_the_streams_of_other_routers_count() -> None:
    gate = bench()
    engine = gate.fleet.engines["d"]
    engine.reported = Reported(requests=FITTING, kv_usage=0.0, own=0)
    engine.changed()
    waits = await gate.waiting()
    assert not waits.done()
    engine.reported = Reported(requests=FITTING - 1, kv_usage=0.0, own=0)
    engine.changed()
    gate.gate.wake()
    await end(gate, await waits)


async def test_an_engine_that_comes_takes_those_who_wait() -> None:
    gate = bench()
    streams = await crowd(gate)
    waiting = [await gate.waiting() for _ in range(FITTING + 1)]
    gate.engines("d", "e", prefill=("p",))
    await asyncio.sleep(0)
    assert [one.done() for one in waiting] == [True] * FITTING + [False]
    assert {one.result().decode.name for one in waiting[:FITTING]} == {"e"}
    await end(gate, *streams, *waiting)


async def test_those_who_can_be_in_time_go_before_those_who_are_late() -> None:
    gate = bench()
    streams = await crowd(gate)
    late = await gate.waiting(HOPELESS)
    in_time = await gate.waiting()
    streams.pop().release()
    await asyncio.sleep(0)
    assert in_time.done()
    assert not late.done()
    streams.pop().release()
    await asyncio.sleep(0)
    assert late.done(), "nobody is before it any more"
    await end(gate, *streams, in_time, late)


async def test_one_who_has_waited_too_long_gets_a_place_although_no_stream_ends() -> None:
    gate = bench()
    streams = await crowd(gate)
    late = await gate.waiting(HOPELESS)
    later(gate, AGE_BOUND - 1)
    assert not late.done()
    just_came = await gate.waiting()
    later(gate, 2)
    assert (await late).decode.name == "d"
    assert not just_came.done()
    assert gate.fleet.engines["d"].running == FITTING + 1
    await end(gate, *streams, late, just_came)


async def test_one_who_has_waited_too_long_gets_no_place_that_does_not_exist() -> None:
    gate = Bench(model=MODEL, max_running_per_engine=FITTING)
    gate.engines("d", prefill=("p",))
    streams = await crowd(gate)
    late, later_one = await gate.waiting(HOPELESS), await gate.waiting(HOPELESS)
    later(gate, AGE_BOUND + 1)
    await asyncio.sleep(0)
    assert not late.done()
    assert gate.gate.queued_decode == 2
    streams.pop().release()
    await asyncio.sleep(0)
    assert late.done(), "it has kept its turn"
    await end(gate, *streams, late, later_one)


async def test_a_stream_that_broke_is_never_held() -> None:
    gate = bench()
    streams = await crowd(gate)
    waits = await gate.waiting()
    broken = Ask(RequestView(prompt_tokens=10, priority=1000), begun=True)
    resumed = await gate.gate.place(broken)
    assert resumed.decode.name == "d"
    assert not waits.done()
    await end(gate, *streams, resumed, waits)


async def test_a_stream_that_gave_way_waits_like_others() -> None:
    gate = bench()
    streams = await crowd(gate)
    paused = Ask(RequestView(prompt_tokens=10, priority=-1), begun=True)
    paused.guest = cast("Guest", SimpleNamespace(paused=True))
    waits = asyncio.create_task(gate.gate.place(paused))
    await asyncio.sleep(0)
    assert not waits.done()
    streams.pop().release()
    await end(gate, *streams, await waits)


async def test_a_request_that_an_engine_failed_is_not_held_and_a_second_try_for_the_same_one_is_not_made() -> None:
    gate = bench()
    gate.engines("d", "e", prefill=("p",))
    streams = await crowd(gate, engines=2)
    elsewhere = RequestView(prompt_tokens=10, avoid=frozenset({"d"}))
    assert gate.gate.try_place(Ask(elsewhere)) is None
    failed = await gate.gate.place(Ask(elsewhere))
    assert failed.decode.name == "e"
    await end(gate, *streams, failed)


async def test_a_second_try_is_made_where_there_is_room() -> None:
    gate = bench()
    gate.engines("d", "e", prefill=("p",))
    streams = await crowd(gate)
    place = gate.gate.try_place(Ask(RequestView(prompt_tokens=10, avoid=frozenset({"d"}))))
    assert place is not None
    await end(gate, *streams, place)


async def test_batch_work_gives_way_to_who_waits_for_a_place_among_streams() -> None:
    gate = bench()
    batch = await Stream(gate).run()
    streams = [await gate.gate.place(Ask(VIEW)) for _ in range(FITTING - 1)]
    came = await gate.waiting()
    await asyncio.sleep(0.01)
    assert batch.place is None
    assert came.done()
    await end(gate, *streams, came)


@pytest.mark.parametrize(
    ("model", "changed"),
    [
        (MODEL, {"hold_for_itl": False}),
        (MODEL, {"order": wire.QueueOrder.ARRIVAL}),
        (NominalModel(), {}),
        (FasterModel(NominalModel(), 4.0), {}),
    ],
    ids=["off", "in order of arrival", "hardware unknown", "hardware unknown, and fast"],
)
async def test_nobody_is_held(model: EngineModel, changed: dict[str, object]) -> None:
    gate = bench(model, prefill=(), **changed)  # so that nobody waits for one either
    streams = [await gate.gate.place(Ask(VIEW)) for _ in range(100)]
    assert gate.fleet.engines["d"].running == 100
    await end(gate, *streams)


def test_without_separate_roles_nobody_is_held() -> None:
    assert placement_settings(config(), MODEL).crowding is not None
    assert placement_settings(config(disaggregated=False), MODEL).crowding is None


class TestSpeed:
    """What streams show of the engines' true speed."""

    async def test_engines_that_are_faster_than_the_model_says_get_more_streams(self) -> None:
        gate = bench()
        streams = await crowd(gate)
        engine = gate.fleet.engines["d"]
        waits = await gate.waiting()
        step = MODEL.step_seconds(FITTING, engine.context_tokens)
        for _ in range(200):
            gate.gate.seats.streamed(engine, step / 2)
        assert gate.gate.seats.step_share == pytest.approx(0.5, abs=0.01)
        gate.gate.wake()
        await end(gate, *streams, await waits)

    async def test_each_stream_that_ends_well_counts(self, tmp_path: Path) -> None:
        async with fakes.bench(tmp_path, *fakes.engines()) as running:
            seats = running.router.gate.seats
            await running.complete(stream=True)
            assert await running.metric("step_share") == 1.0, "nobody is held, so nobody has to know"
            limit = Crowding(room_seconds=1.0, stream_seconds=0.01, token_seconds=0.0)
            seats.settings = msgspec.structs.replace(seats.settings, crowding=limit)
            await running.complete()
            assert await running.metric("step_share") == 1.0, "an answer that is no stream has no gaps"
            await running.complete(stream=True)
            assert LEAST_SPEED < await running.metric("step_share") < 1.0, "the engine answers in no time"

    async def test_slow_clients_take_no_place_from_others(self) -> None:
        gate = bench()
        streams = await crowd(gate)
        before = gate.gate.seats.settings
        for _ in range(200):
            gate.gate.seats.streamed(gate.fleet.engines["d"], 10.0)
        assert gate.gate.seats.step_share == 1.0
        assert gate.gate.seats.settings is before
        await end(gate, *streams)

    async def test_a_small_change_is_not_worth_other_settings(self) -> None:
        gate = bench()
        streams = await crowd(gate)
        seats, engine = gate.gate.seats, gate.fleet.engines["d"]
        before, step = seats.settings, MODEL.step_seconds(FITTING, engine.context_tokens)
        seats.streamed(engine, step / 2)
        assert 0.98 < seats.step_share < 1.0
        assert seats.settings is before
        for _ in range(3):
            seats.streamed(engine, step / 2)
        assert seats.settings is not before
        assert msgspec.structs.replace(seats.settings, crowding=before.crowding) == before
        await end(gate, *streams)

    async def test_the_streams_of_other_routers_are_expected_to_make_steps_longer(self) -> None:
        gate = bench()
        place = await gate.gate.place(Ask(VIEW))
        place.decode.reported = Reported(requests=11, kv_usage=0.0, own=1)
        place.decode.changed()
        view = place.decode.view(gate.gate.now())
        gate.gate.seats.streamed(place.decode, MODEL.step_seconds(view.running, view.context_tokens) / 2)
        assert gate.gate.seats.step_share == pytest.approx(0.99)
        await end(gate, place)

    async def test_those_whose_prompt_is_computed_elsewhere_are_not_expected_to_make_steps_longer(self) -> None:
        gate = bench()
        streams = await crowd(gate)
        engine = gate.fleet.engines["d"]
        engine.reported = Reported(requests=1, kv_usage=0.0, own=FITTING)
        engine.changed()
        gate.gate.seats.streamed(engine, MODEL.step_seconds(1, VIEW.context_tokens))
        assert gate.gate.seats.step_share == pytest.approx(1.0, abs=1e-4)
        await end(gate, *streams)

    @pytest.mark.parametrize("gap", [None, 0.001])
    async def test_streams_without_gaps_and_those_of_engines_with_prompts_show_nothing(self, gap: float | None) -> None:
        gate = bench()
        engine = gate.fleet.engines["d" if gap is None else "p"]
        for _ in range(100):
            gate.gate.seats.streamed(engine, gap)
        assert gate.gate.seats.step_share == 1.0
