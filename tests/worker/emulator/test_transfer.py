"""Blocks on their way between engines: fetched once, freed once, never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from paceline.errors import EngineError
from paceline_worker.emulator.transfer import BlockSource, Location, TransferError, discard, fetch


class Holder:
    """A block source and what happened to it."""

    def __init__(self, lease_seconds: float) -> None:
        self.freed: list[str] = []
        self.expired = 0
        self.changed = asyncio.Event()
        self.source = BlockSource(lease_seconds, self._expire)

    def _expire(self) -> None:
        self.expired += 1

    def hold(self, request: str, state: int = 99, tokens: int = 5) -> Location:
        def free() -> None:
            self.freed.append(request)
            self.changed.set()

        self.source.hold(request, state=state, tokens=tokens, free=free)
        return Location("127.0.0.1", self.source.port, request)

    async def freed_once(self, request: str) -> None:
        async with asyncio.timeout(60):
            await self.changed.wait()
        assert self.freed == [request]
        assert self.source.held == 0


@pytest.fixture
async def holder() -> AsyncIterator[Holder]:
    made = Holder(60)
    await made.source.start("127.0.0.1", 0)
    yield made
    await made.source.close()


async def test_a_prompt_is_fetched_and_then_freed(holder: Holder) -> None:
    location = holder.hold("r1")
    assert await fetch(location, tokens=5, seconds=0) == 99
    await holder.freed_once("r1")


async def test_blocks_are_kept_while_they_travel(holder: Holder) -> None:
    location = holder.hold("r1")
    fetching = asyncio.create_task(fetch(location, tokens=5, seconds=3600))
    for _ in range(50):
        await asyncio.sleep(0)
    assert holder.source.held == 1
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    assert holder.freed == []


async def test_a_prompt_that_is_not_there_can_not_be_fetched(holder: Holder) -> None:
    with pytest.raises(TransferError, match="never held, freed or expired"):
        await fetch(Location("127.0.0.1", holder.source.port, "other"), tokens=5, seconds=0)


async def test_a_prompt_of_another_length_is_not_taken(holder: Holder) -> None:
    with pytest.raises(TransferError, match="holds 5 tokens, the prompt has 6"):
        await fetch(holder.hold("r1"), tokens=6, seconds=0)


async def test_blocks_that_nobody_fetches_are_freed_when_their_lease_ends() -> None:
    holder = Holder(0.01)
    await holder.source.start("127.0.0.1", 0)
    holder.hold("r1")
    await holder.freed_once("r1")
    assert holder.expired == 1
    await holder.source.close()


async def test_a_decode_engine_that_gives_up_lets_the_blocks_go(holder: Holder) -> None:
    await discard(holder.hold("r1"))
    await holder.freed_once("r1")


async def test_an_engine_that_can_not_be_reached_is_an_error_and_giving_up_on_it_is_not(holder: Holder) -> None:
    location = holder.hold("r1")
    await holder.source.close()
    with pytest.raises(TransferError, match="can't be reached"):
        await fetch(location, tokens=5, seconds=0)
    await discard(location)


async def test_garbage_on_the_side_channel_ends_only_its_connection(holder: Holder) -> None:
    location = holder.hold("r1")
    reader, writer = await asyncio.open_connection("127.0.0.1", holder.source.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    assert await fetch(location, tokens=5, seconds=0) == 99


async def test_a_peer_that_answers_garbage_is_an_error() -> None:
    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 nonsense\n")
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(TransferError, match="broke off"):
        await fetch(Location("127.0.0.1", port, "r"), tokens=1, seconds=0)
    server.close()
    await server.wait_closed()


async def test_a_side_channel_port_in_use_is_named(holder: Holder) -> None:
    second = BlockSource(60, lambda: None)
    with pytest.raises(EngineError, match=f"127.0.0.1:{holder.source.port}.*VLLM_NIXL_SIDE_CHANNEL_PORT"):
        await second.start("127.0.0.1", holder.source.port)
    await second.close()
