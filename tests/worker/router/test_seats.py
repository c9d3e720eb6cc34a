"""Which prefill engine gets a prompt, and when: so that none is idle, and the streams it still has keep their ITL."""

from __future__ import annotations

import asyncio

from paceline.api import wire
from paceline.policy.routing.cost import RequestView
from paceline.policy.routing.pacing import MOST_OWED_SECONDS
from paceline.policy.routing.placement import Prefill
from paceline.policy.scaling.profiles import get_profile
from paceline_worker.router.places import Place
from tests.worker.router.gates import Ask, Bench


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


SHORT = RequestView(prompt_tokens=60)


async def test_streams_are_owed_steps_after_short_prompts_and_others_compute_them_meanwhile() -> None:
    bench = Bench(model=get_profile("qwen3-32b-h200-tp2"), max_running_per_engine=100)
    bench.engines("d", prefill=("p",))
    places = [await bench.gate.place(Ask(SHORT))]
    assert bench.fleet.engines["d"].owed_until == 0.0, "there was no stream that had to wait for it"
    while (last := await bench.gate.place(Ask(SHORT))).prefill is None:
        places.append(last)
        assert len(places) < 50
    assert len(places) > 2, "one does no harm"
    loop, later = asyncio.get_running_loop(), MOST_OWED_SECONDS
    bench.gate.now = lambda: loop.time() + later  # type: ignore[method-assign]
    again = await bench.gate.place(Ask(SHORT))
    assert again.placement.reason is Prefill.SHORT
    for place in (*places, last, again):
        place.release()


async def test_what_streams_are_owed_for_short_prompts_keeps_no_prompt_from_an_engine_of_another_role() -> None:
    bench = Bench(max_running_per_engine=100)
    roles(bench, a=wire.Role.DECODE, b=wire.Role.PREFILL)
    places = [await bench.gate.place(Ask(SHORT)) for _ in range(2)]
    engine = bench.fleet.engines["a"]
    assert engine.view(bench.gate.now()).owed_seconds > 0
    roles(bench, a=wire.Role.PREFILL, b=wire.Role.DECODE)
    assert engine.view(bench.gate.now()).owed_seconds == 0
    for place in places:
        place.release()
