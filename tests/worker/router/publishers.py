"""Engines' cache events from a publisher that does what a test tells it: skips, repeats, forgets, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from paceline.policy.routing.kv_events import BlockStored, Event
from paceline_worker.router.prefixes.batches import END_OF_REPLAY
from tests.processes import free_ports

SIZE = 4
"""Tokens a block."""


def stored(tokens: Sequence[int], *, first: int = 0) -> BlockStored:
    """All blocks of a prompt from ``first`` on; an engine's names are hashes of the prefix."""
    ends = range((first + 1) * SIZE, len(tokens) + 1, SIZE)
    return BlockStored(
        block_hashes=[hash(tuple(tokens[:end])) & (2**64 - 1) for end in ends],
        parent_block_hash=hash(tuple(tokens[: first * SIZE])) & (2**64 - 1) if first else None,
        token_ids=list(tokens[first * SIZE : ends[-1]]),
        block_size=SIZE,
        medium="GPU",
    )


class FakePublisher:
    """Publishes on ``live`` and answers on ``replay`` with what ``kept`` holds."""

    def __init__(self, *, topic: bytes = b"") -> None:
        self.topic = topic
        self.kept: list[tuple[int, bytes]] = []
        self.asked: asyncio.Queue[int] = asyncio.Queue()
        """First numbers of the replays that were asked for."""
        self.answers = True
        live, replay = free_ports(2)
        self.live, self.replay = f"tcp://127.0.0.1:{live}", f"tcp://127.0.0.1:{replay}"
        self.next = 0
        self.time = 1.0

    def start(self) -> None:
        """Bind. Raises zmq.ZMQError, and leaves nothing behind, when a port is taken."""
        self._context = zmq.asyncio.Context()
        try:
            self._bind()
        except zmq.ZMQError:
            self._context.destroy(linger=0)
            raise
        self._task = asyncio.create_task(self._serve())

    def _bind(self) -> None:
        self._pub = self._context.socket(zmq.XPUB)
        self._pub.set(zmq.XPUB_VERBOSE, 1)
        self._pub.bind(self.live)
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(self.replay)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._context.destroy(linger=0)

    async def subscribed(self) -> None:
        """Return when a subscriber is there, and has had its first replay."""
        await self._pub.recv()
        await self.asked.get()

    async def publish(self, *events: Event, keep: bool = True, send: bool = True) -> None:
        """One batch under the next number."""
        self.time += 1
        payload = msgspec.msgpack.encode([self.time, events, 0])
        number, self.next = self.next, self.next + 1
        if keep:
            self.kept.append((number, payload))
        if send:
            await self.send(number, payload)

    async def send(self, number: int | bytes, payload: bytes) -> None:
        """Any two frames after the topic."""
        head = number if isinstance(number, bytes) else number.to_bytes(8, "big")
        await self.send_frames(self.topic, head, payload)

    async def send_frames(self, *frames: bytes) -> None:
        await self._pub.send_multipart(frames)

    async def _serve(self) -> None:
        while True:
            client, _, start = await self._router.recv_multipart()
            first = int.from_bytes(start, "big")
            self.asked.put_nowait(first)
            if not self.answers:
                continue
            answers: list[tuple[Any, ...]] = [
                (self.topic, number.to_bytes(8, "big"), payload) for number, payload in self.kept if number >= first
            ]
            for answer in [*answers, (b"", END_OF_REPLAY, b"")]:
                await self._router.send_multipart((client, b"", *answer))
