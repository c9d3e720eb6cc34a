"""What an engine's events tell is known completely or not at all: gaps are filled, or everything is forgotten."""

from __future__ import annotations

import asyncio
import socket
from array import array
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from paceline.api import wire
from paceline.clock import VirtualClock
from paceline.policy.routing.engine_cache import Oddity
from paceline.policy.routing.kv_events import AllBlocksCleared, BlockRemoved
from paceline.policy.routing.prefix_index import Held
from paceline_worker.router.fleet import Engine
from paceline_worker.router.prefixes import subscription as subscription_module
from paceline_worker.router.prefixes.knowledge import Knowledge, Mode, Settings, tier_weights
from paceline_worker.router.prefixes.prompt import Prompt
from paceline_worker.router.prefixes.subscription import Noted
from tests.processes import free_ports
from tests.waiting import until
from tests.worker.router.publishers import SIZE, FakePublisher, stored

TOKENS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]


class SlowClock(VirtualClock):
    """Each look at it takes a tenth of a millisecond."""

    def monotonic(self) -> float:
        self.advance(0.0001)
        return super().monotonic()


class Rig:
    """Knowledge of some engines, whose events come from fake publishers. The clock stands still unless told else."""

    def __init__(self, clock: VirtualClock | None = None, **changes: Any) -> None:
        self.clock = clock or VirtualClock()
        defaults: dict[str, Any] = {
            "model": "m", "block_size": SIZE, "max_entries": 100_000, "capacity_tokens": 1000 * SIZE,
            "tier_weights": tier_weights(host=0.5, disk=0.25, shared=0.25), "sent_seconds": 600.0,
        }  # fmt: skip
        self.knowledge = Knowledge(Settings(**(defaults | changes)), self.clock)
        self.engines: list[Engine] = []

    def engine(self, name: str, publisher: FakePublisher | None = None, **changes: Any) -> Engine:
        events = {} if publisher is None else {"kv_events": publisher.live, "kv_replay": publisher.replay}
        fields = {
            "name": name, "host": "h", "port": 1, "role": wire.Role.BOTH, "state": wire.EngineState.READY,
            "start_id": "1", **events, **changes,
        }  # fmt: skip
        engine = Engine(wire.EngineEndpoint(**fields))
        self.engines.append(engine)
        self.knowledge.sync(self.engines)
        return engine

    def remove(self, engine: Engine) -> None:
        self.engines.remove(engine)
        self.knowledge.sync(self.engines)

    def prompt(self, tokens: Sequence[int] = TOKENS, **changes: Any) -> Prompt:
        return Prompt(
            array("I", tokens).tobytes(), exact=True, tokens=len(tokens), model="m", memory=self.knowledge.memory,
            **changes,
        )  # fmt: skip

    def text(self, content: bytes) -> Prompt:
        memory = self.knowledge.memory
        return Prompt(content, exact=False, tokens=len(content) // 4, model="m", memory=memory)

    def known(self, tokens: Sequence[int] = TOKENS) -> dict[str, int]:
        return {name: known.tokens for name, known in self.knowledge.match(self.prompt(tokens)).items()}

    def noted(self, what: Noted) -> float:
        return next(
            value for name, _, labels, value in self.knowledge.counts()
            if name == "cache_event_batches" and labels["outcome"] == what
        )  # fmt: skip

    async def note(self, what: Noted, count: int = 1) -> None:
        await until(lambda: self.noted(what) >= count)


@asynccontextmanager
async def one_engine(*, history: int = 0, **changes: Any) -> AsyncIterator[tuple[Rig, FakePublisher]]:
    """An engine with a publisher that the knowledge listens to. ``history``: batches published before that."""
    rig, publisher = Rig(**changes), FakePublisher(topic=b"kv@a@m")
    publisher.start()
    for number in range(history):
        await publisher.publish(stored(TOKENS[: (number + 1) * SIZE], first=number), send=False)
    try:
        rig.engine("a", publisher)
        await publisher.subscribed()
        yield rig, publisher
    finally:
        rig.knowledge.close()
        await publisher.stop()


async def test_what_happened_before_the_router_began_is_asked_for() -> None:
    async with one_engine(history=3) as (rig, _):
        await rig.note(Noted.REPLAYED, 3)
        assert rig.known() == {"a": 12}


async def test_what_an_engine_stores_and_removes_is_known() -> None:
    async with one_engine() as (rig, publisher):
        event = stored(TOKENS)
        await publisher.publish(event)
        await until(lambda: rig.known() == {"a": 12})
        assert rig.known([1, 2, 3, 4, 5, 6, 7, 99]) == {"a": 4}
        await publisher.publish(BlockRemoved(event.block_hashes[2:], "GPU"))
        await until(lambda: rig.known() == {"a": 8})
        await publisher.publish(AllBlocksCleared())
        await until(lambda: rig.known() == {})


async def test_a_gap_is_filled_from_the_replay_while_later_batches_wait() -> None:
    async with one_engine() as (rig, publisher):
        await publisher.publish(stored(TOKENS[:4]))
        await publisher.publish(stored(TOKENS[:8], first=1), send=False)
        await publisher.publish(stored(TOKENS, first=2))
        await publisher.publish(stored([9, 9, 9, 9]))
        assert await publisher.asked.get() == 1
        await until(lambda: rig.known([9, 9, 9, 9]) == {"a": 4})
        assert rig.known() == {"a": 12}
        assert (rig.noted(Noted.GAP), rig.noted(Noted.LOST)) == (1, 0)


async def test_what_can_t_be_replayed_takes_all_that_was_known_with_it() -> None:
    async with one_engine() as (rig, publisher):
        await publisher.publish(stored(TOKENS))
        await until(lambda: rig.known() == {"a": 12})
        publisher.kept.clear()
        await publisher.publish(stored([5, 5, 5, 5]), keep=False, send=False)
        await publisher.publish(stored([9, 9, 9, 9]))
        await until(lambda: rig.known([9, 9, 9, 9]) == {"a": 4})
        assert rig.known() == {}
        assert rig.noted(Noted.LOST) == 1


async def test_an_engine_that_does_not_answer_a_replay_is_started_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_module, "REPLAY_SECONDS", 0.05)
    async with one_engine() as (rig, publisher):
        await publisher.publish(stored(TOKENS))
        await until(lambda: rig.known() == {"a": 12})
        publisher.answers = False
        await publisher.publish(send=False)
        await publisher.publish(stored([9, 9, 9, 9]))
        await until(lambda: rig.known([9, 9, 9, 9]) == {"a": 4})
        assert rig.known() == {}
        assert rig.noted(Noted.REPLAY_FAILED) == 1


async def test_gaps_without_end_don_t_make_the_router_ask_without_end() -> None:
    async with one_engine() as (rig, publisher):
        for number in range(5):
            publisher.kept.clear()
            publisher.next += 1
            prompt = [number, 2, 3, 4]
            await publisher.publish(stored(prompt))
            await until(lambda prompt=prompt: rig.known(prompt) == {"a": 4})  # type: ignore[misc]
        assert rig.noted(Noted.GAP) == 5
        assert publisher.asked.qsize() == 1


async def test_duplicated_and_re_ordered_batches_change_nothing() -> None:
    async with one_engine() as (rig, publisher):
        event = stored(TOKENS)
        await publisher.publish(event)
        await publisher.publish(BlockRemoved(event.block_hashes, "GPU"))
        await publisher.send(*publisher.kept[0])
        await rig.note(Noted.DUPLICATE)
        assert rig.known() == {}


async def test_an_engine_that_counts_anew_has_restarted() -> None:
    async with one_engine() as (rig, publisher):
        await publisher.publish(stored([9, 9, 9, 9]))
        await publisher.publish(stored([8, 8, 8, 8]))
        await until(lambda: rig.known([8, 8, 8, 8]) == {"a": 4})
        publisher.kept.clear()
        publisher.next = 0
        await publisher.publish(stored(TOKENS))
        await until(lambda: rig.known() == {"a": 12})
        assert rig.known([9, 9, 9, 9]) == {}
        assert rig.noted(Noted.RESTART) == 1


async def test_the_last_batch_before_a_silence_is_found_by_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription_module, "AUDIT_SECONDS", 0.05)
    async with one_engine() as (rig, publisher):
        await publisher.publish(stored(TOKENS), send=False)
        while rig.known() != {"a": 12}:
            rig.clock.advance(1)
            await asyncio.sleep(0.01)
        assert rig.noted(Noted.GAP) == 0


@pytest.mark.parametrize(
    "frames",
    [
        (b"kv@a@m",),
        (b"kv@a@m", b"short", b"x"),
        (b"kv@a@m", bytes(8), b"not msgpack \xc1"),
        (b"kv@a@m", bytes(8), msgspec.msgpack.encode({"a": "map"})),
        (b"kv@a@m", bytes(8), b"\x93" + b"\x91" * 5000),
    ],
)
async def test_what_is_no_batch_is_counted(frames: tuple[bytes, ...]) -> None:
    async with one_engine() as (rig, publisher):
        await publisher.send_frames(*frames)
        await rig.note(Noted.MALFORMED)
        publisher.next = 1
        await publisher.publish(stored(TOKENS))
        await until(lambda: rig.known() == {"a": 12})


async def test_events_of_a_kind_that_is_not_known_are_skipped_and_the_others_count() -> None:
    async with one_engine() as (rig, publisher):
        batch = [2.0, [{"type": "BlockLent", "to": "b"}, msgspec.to_builtins(stored(TOKENS)), 7], 0]
        await publisher.send(0, msgspec.msgpack.encode(batch))
        await rig.note(Noted.UNREADABLE_EVENT, 2)
        assert rig.known() == {"a": 12}


async def test_another_engine_s_events_on_this_engine_s_address_are_refused() -> None:
    async with one_engine() as (rig, publisher):
        publisher.topic = b"kv@b@m"
        await publisher.publish(stored(TOKENS))
        await rig.note(Noted.FOREIGN)
        assert rig.known() == {}


async def test_a_huge_batch_leaves_the_loop_to_others_in_between() -> None:
    async with one_engine(clock=SlowClock(), max_entries=200_000) as (rig, publisher):
        tokens = [number % 250 for number in range(SIZE * 50_000)]
        turns = 0
        await publisher.publish(stored(tokens[: SIZE * 2]))
        big = msgspec.structs.replace(stored(tokens[: SIZE * 2]), block_hashes=list(range(50_000)), token_ids=tokens)
        await publisher.publish(big)
        while rig.knowledge.index.entries < 50_000:
            turns += 1
            await asyncio.sleep(0)
        assert turns > 5, "about ten slices a turn, of a hundred"


async def test_an_engine_that_is_gone_or_restarted_is_forgotten() -> None:
    async with one_engine(history=3) as (rig, publisher):
        await rig.note(Noted.REPLAYED, 3)
        publisher.kept.clear()
        rig.remove(rig.engines[0])
        assert rig.known() == {}
        rig.engine("a", publisher, start_id="2")
        await publisher.subscribed()
        rig.knowledge.tick()
        assert (rig.known(), rig.knowledge.index.entries) == ({}, 0)


async def test_an_endpoint_that_is_none_costs_the_engine_its_events_only() -> None:
    rig = Rig()
    try:
        engine = rig.engine("a", kv_events="tcp://nowhere", kv_replay="???")
        assert rig.knowledge.mode(engine) is Mode.STALE
        rig.knowledge.sent(rig.prompt(), engine, None)
        assert rig.known() == {"a": 12}
    finally:
        rig.knowledge.close()


async def test_engines_may_have_different_block_sizes() -> None:
    async with one_engine() as (rig, publisher):
        event = stored(TOKENS)
        await publisher.publish(msgspec.structs.replace(event, block_size=6, block_hashes=[1, 2]))
        await until(lambda: rig.knowledge.index.entries == 2)
        rig.knowledge.sent(rig.prompt(), rig.engine("b"), None)
        rig.knowledge.tick()
        assert rig.known([*TOKENS[:11], 99]) == {"a": 6, "b": 8}


async def test_of_data_parallel_ranks_the_best_counts() -> None:
    rig, first, second = Rig(), FakePublisher(), FakePublisher()
    first.live, second.live = _neighbours()
    first.replay, second.replay = _neighbours()
    first.start()
    second.start()
    try:
        rig.engine("a", first, data_parallel=2)
        await first.subscribed()
        await second.subscribed()
        await first.publish(stored(TOKENS[:4]))
        await second.publish(stored(TOKENS[:8]))
        await until(lambda: rig.known() == {"a": 8})
    finally:
        rig.knowledge.close()
        await first.stop()
        await second.stop()


async def test_without_events_what_was_sent_counts_for_its_time() -> None:
    rig = Rig(sent_seconds=60.0)
    engine = rig.engine("a")
    rig.knowledge.sent(rig.prompt(), engine, None)
    assert rig.knowledge.mode(engine) is Mode.SENT
    assert rig.known() == {"a": 12}
    rig.clock.advance(60)
    rig.knowledge.tick()
    assert (rig.known(), rig.knowledge.index.entries) == ({}, 0)
    rig.knowledge.close()


async def test_with_events_what_was_sent_bridges_the_time_until_they_come() -> None:
    async with one_engine() as (rig, publisher):
        await publisher.publish(stored(TOKENS[:4]))
        await until(lambda: rig.known() == {"a": 4})
        engine = rig.engines[0]
        rig.knowledge.sent(rig.prompt(), engine, Held(4, 4), seconds=3)
        assert rig.knowledge.mode(engine) is Mode.EVENTS
        assert rig.known() == {"a": 12}
        assert rig.knowledge.index.entries == 3, "only what no event told of"
        rig.clock.advance(13)
        rig.knowledge.tick()
        assert rig.known() == {"a": 4}


async def test_an_engine_that_fell_silent_is_called_stale() -> None:
    async with one_engine() as (rig, publisher):
        await publisher.publish(stored(TOKENS))
        await until(lambda: rig.known() == {"a": 12})
        rig.clock.advance(61)
        assert rig.knowledge.mode(rig.engines[0]) is Mode.STALE
        values = {name: value for name, _, labels, value in rig.knowledge.samples() if labels in ({}, {"engine": "a"})}
        assert values["cache_events_staleness_seconds"] == 61


async def test_text_is_compared_with_text_that_was_sent_only() -> None:
    rig = Rig()
    engine = rig.engine("a")
    turn = b"a conversation that goes on and on, " * 10
    rig.knowledge.sent(rig.text(turn), engine, None)
    found = rig.knowledge.match(rig.text(turn + b"and a new turn"))["a"]
    assert 0 < len(turn) // 4 - found.tokens < 32
    assert rig.knowledge.match(rig.prompt(list(turn))) == {}
    rig.knowledge.close()


async def test_tiers_and_oddities_show() -> None:
    async with one_engine() as (rig, publisher):
        event = stored(TOKENS)
        await publisher.publish(event, stored([7, 7, 7, 7, 8, 8, 8, 8], first=1))
        await publisher.publish(
            BlockRemoved(event.block_hashes[1:], "GPU"),
            msgspec.structs.replace(event, block_hashes=event.block_hashes[1:], token_ids=[], medium="CPU"),
        )
        await until(lambda: rig.knowledge.match(rig.prompt()).get("a") == Held(12, 8))
        odd = {
            labels["reason"]: value for name, _, labels, value in rig.knowledge.counts() if "skipped" in name
        }  # fmt: skip
        assert odd[Oddity.ORPHAN] == 1


def _neighbours() -> tuple[str, str]:
    """Endpoints on two consecutive ports that were free a moment ago."""
    while True:
        (port,) = free_ports(1)
        with socket.socket() as above:
            try:
                above.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
        return f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 1}"
