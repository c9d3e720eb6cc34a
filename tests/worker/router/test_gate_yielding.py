"""Who gets the room of batch streams that give way, and how many have to."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from types import SimpleNamespace
from typing import cast

from paceline.api import wire
from paceline.policy.routing.cost import RequestView
from paceline_worker.http.message import Response
from paceline_worker.http.upstream import Exchange
from paceline_worker.router.parse import Kind, Rules, parse
from paceline_worker.router.places import Place
from paceline_worker.router.resume.transcript import Transcript
from paceline_worker.router.yielding import Guest
from tests.worker.router.gates import VIEW, Ask, Bench


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
