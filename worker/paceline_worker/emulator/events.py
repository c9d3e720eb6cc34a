"""Cache events over ZMQ, as vLLM publishes them: PUB with topic, sequence number and msgpack; ROUTER for replay."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import zmq
import zmq.asyncio

from paceline.errors import EngineError
from paceline.policy.engine.blockcache import Cleared, Event, Removed, Stored
from paceline_worker.emulator.generation import Generation
from paceline_worker.emulator.options import KvEvents

log = logging.getLogger(__name__)

END_OF_REPLAY: Final = (-1).to_bytes(8, "big", signed=True)
REPLAY_BYTES: Final = 64 * 1024 * 1024
"""The replay buffer holds ``buffer_steps`` batches, and no more than these bytes."""
DATA_PARALLEL_RANK: Final = 0

_encode: Final = msgspec.msgpack.Encoder().encode


class Publisher:
    """Numbers batches of events and sends them; keeps the last ones for subscribers that missed some."""

    def __init__(self, settings: KvEvents, block_size: int) -> None:
        self.settings = settings
        self._block_size = block_size
        self._topic = settings.topic.encode()
        self._sequence = 0
        self._kept: deque[tuple[bytes, bytes]] = deque(maxlen=settings.buffer_steps)
        self._kept_bytes = 0
        self._context = zmq.asyncio.Context()
        # A PUB socket never blocks: past its high-water mark it drops, which subscribers see as a gap.
        self._pub = zmq.Context(self._context).socket(zmq.PUB)
        self._pub.set_hwm(settings.hwm)
        self._replay: zmq.asyncio.Socket | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind. Raises EngineError when an endpoint can't be bound."""
        self._bind(self._pub, self.settings.endpoint)
        if self.settings.replay_endpoint:
            self._replay = self._context.socket(zmq.ROUTER)
            self._bind(self._replay, self.settings.replay_endpoint)
            self._task = asyncio.create_task(self._serve_replay(self._replay), name="kv event replay")

    async def close(self) -> None:
        """Close the sockets."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._replay is not None:
            self._replay.close(linger=0)
        self._pub.close(linger=0)
        self._context.destroy(linger=0)

    @property
    def kept_bytes(self) -> int:
        """Size of the replay buffer."""
        return self._kept_bytes

    def publish(self, events: Sequence[Event], timestamp: float) -> None:
        """Send one batch. ``timestamp`` in seconds since the Unix epoch."""
        payload = _encode([timestamp, [self._wire(event) for event in events], DATA_PARALLEL_RANK])
        number = self._sequence.to_bytes(8, "big")
        self._sequence += 1
        self._keep(number, payload)
        self._pub.send_multipart((self._topic, number, payload), copy=False)

    def _keep(self, number: bytes, payload: bytes) -> None:
        if len(self._kept) == self._kept.maxlen:
            self._kept_bytes -= len(self._kept.popleft()[1])
        self._kept.append((number, payload))
        self._kept_bytes += len(payload)
        while self._kept_bytes > REPLAY_BYTES:
            self._kept_bytes -= len(self._kept.popleft()[1])

    def _wire(self, event: Event) -> dict[str, Any]:
        match event:
            case Stored(content=Generation() as generation):
                return self._stored(event, generation)
            case Stored():
                return {
                    "type": "BlockStored", "block_hashes": event.hashes, "parent_block_hash": None, "token_ids": [],
                    "block_size": self._block_size, "lora_id": None, "medium": event.tier, "lora_name": None,
                }  # fmt: skip
            case Removed():
                return {"type": "BlockRemoved", "block_hashes": event.hashes, "medium": event.tier, "group_idx": 0}
            case Cleared():
                return {"type": "AllBlocksCleared"}

    def _stored(self, event: Stored, generation: Generation) -> dict[str, Any]:
        size, plan = self._block_size, generation.plan
        wire: dict[str, Any] = {
            "type": "BlockStored",
            "block_hashes": event.hashes,
            "parent_block_hash": event.parent,
            "token_ids": generation.tokens(event.first * size, (event.first + len(event.hashes)) * size),
            "block_size": size,
            "lora_id": 1 if plan.lora else None,
            "medium": event.tier,
            "lora_name": plan.lora,
        }
        keys = [
            [key for key in (plan.lora, plan.salt if event.first + place == 0 else None) if key] or None
            for place in range(len(event.hashes))
        ]
        if any(keys):
            wire["extra_keys"] = keys
        wire["group_idx"] = 0
        return wire

    async def _serve_replay(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames = await socket.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != 8:
                log.warning("a replay request with %d frames is ignored", len(frames))
                continue
            client, _, start = frames
            for number, payload in tuple(self._kept):
                if number >= start:
                    await socket.send_multipart((client, b"", self._topic, number, payload))
            await socket.send_multipart((client, b"", b"", END_OF_REPLAY, b""))

    def _bind(self, socket: zmq.Socket[Any], endpoint: str) -> None:
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise EngineError(f"KV events can't be published on {endpoint}: {error}. Choose a free port.") from None
