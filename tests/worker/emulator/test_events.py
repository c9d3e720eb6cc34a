"""Cache events on the wire: numbered, complete, replayable within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
import zmq
import zmq.asyncio

from paceline.errors import EngineError
from paceline.policy.engine.blockcache import Cleared, Removed, Stored, Tier
from paceline_worker.emulator import events as events_module
from paceline_worker.emulator.events import END_OF_REPLAY, Publisher
from paceline_worker.emulator.options import KvEvents
from tests.processes import free_ports
from tests.worker.emulator.building import generation


@asynccontextmanager
async def publisher(buffer_steps: int = 100) -> AsyncIterator[Publisher]:
    live, replay = free_ports(2)
    settings = KvEvents(
        endpoint=f"tcp://127.0.0.1:{live}",
        replay_endpoint=f"tcp://127.0.0.1:{replay}",
        topic="kv@p@m",
        buffer_steps=buffer_steps,
    )
    made = Publisher(settings, block_size=4)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def replayed(of: Publisher, start: int) -> list[tuple[int, list[dict[str, object]]]]:
    """Numbers and events that the replay endpoint still has, as (number, events)."""
    assert of.settings.replay_endpoint is not None
    context = zmq.asyncio.Context()
    dealer = context.socket(zmq.DEALER)
    found: list[tuple[int, list[dict[str, object]]]] = []
    try:
        dealer.connect(of.settings.replay_endpoint)
        await dealer.send_multipart((b"", start.to_bytes(8, "big")))
        async with asyncio.timeout(60):
            while True:
                _, topic, number, payload = await dealer.recv_multipart()
                if number == END_OF_REPLAY:
                    assert (topic, payload) == (b"", b"")
                    return found
                assert topic == b"kv@p@m"
                timestamp, events, rank = msgspec.msgpack.decode(payload)
                assert (timestamp, rank) == (1.5, 0)
                found.append((int.from_bytes(number, "big"), events))
    finally:
        dealer.close(linger=0)
        context.term()


async def test_a_stored_block_says_what_it_holds() -> None:
    content, _ = generation("abcdefghijkl", cache_salt="tenant")
    async with publisher() as made:
        made.publish([Stored((11, 12), Tier.GPU, parent=None, content=content, first=0)], 1.5)
        made.publish([Stored((13,), Tier.GPU, parent=12, content=content, first=2)], 1.5)
        (_, [first]), (_, [second]) = await replayed(made, 0)
    assert first == {
        "type": "BlockStored", "block_hashes": [11, 12], "parent_block_hash": None, "token_ids": list(b"abcdefgh"),
        "block_size": 4, "lora_id": None, "medium": "GPU", "lora_name": None, "extra_keys": [["tenant"], None],
        "group_idx": 0,
    }  # fmt: skip
    assert (second["token_ids"], second["parent_block_hash"]) == (list(b"ijkl"), 12)
    assert "extra_keys" not in second


async def test_the_host_tier_and_removals_name_their_medium() -> None:
    async with publisher() as made:
        made.publish([Removed((1, 2), Tier.GPU), Stored((1, 2), Tier.HOST), Cleared()], 1.5)
        ((_, [removed, stored, cleared]),) = await replayed(made, 0)
    assert (removed["type"], removed["block_hashes"], removed["medium"]) == ("BlockRemoved", [1, 2], "GPU")
    assert (stored["medium"], stored["token_ids"]) == ("CPU", [])
    assert cleared == {"type": "AllBlocksCleared"}


async def test_a_replay_starts_where_it_is_asked_to() -> None:
    async with publisher() as made:
        for _ in range(5):
            made.publish([Cleared()], 1.5)
        assert [number for number, _ in await replayed(made, 3)] == [3, 4]
        assert await replayed(made, 5) == []


async def test_the_replay_buffer_keeps_only_the_last_batches() -> None:
    async with publisher(buffer_steps=2) as made:
        for _ in range(5):
            made.publish([Cleared()], 1.5)
        assert [number for number, _ in await replayed(made, 0)] == [3, 4]
        assert made.kept_bytes > 0


async def test_the_replay_buffer_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "REPLAY_BYTES", 60)
    async with publisher() as made:
        for _ in range(9):
            made.publish([Cleared()], 1.5)
        assert made.kept_bytes <= 60
        assert [number for number, _ in await replayed(made, 0)][-1] == 8


async def test_an_endpoint_in_use_is_named() -> None:
    async with publisher() as first:
        second = Publisher(first.settings, block_size=4)
        with pytest.raises(EngineError, match=r"can't be published on tcp://127\.0\.0\.1"):
            await second.start()
        await second.close()
