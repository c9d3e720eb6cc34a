"""The cache events of one engine (one data-parallel rank) in their order, without gaps, or else from a fresh start.

A publisher numbers its batches from 0 and keeps the last ones. The subscription listens, and asks for a replay when it
begins, when a number is missing, and when the engine was silent for a while: the last batches before a silence may be
the lost ones. While a replay runs, live batches wait in the socket. What can't be replayed is lost, and with it what
was known: the sink is reset.

Everything happens on the event loop in turns of bounded length: sockets are read without blocking when ZMQ says so, and
a batch is applied in slices.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, Final, Protocol

import zmq

from paceline.clock import Clock
from paceline.policy.routing.kv_events import Event
from paceline_worker.router.prefixes.batches import END_OF_REPLAY, SEQUENCE_BYTES, Batch, read_batch

log = logging.getLogger(__name__)

TURN_SECONDS: Final = 0.001
"""Longest time the loop is held for one engine's events, but for the batch or slice that is begun."""
MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""Of one batch; ZMQ drops a peer that sends more. An engine step stores at most some thousand tokens."""
QUEUED_BATCHES: Final = 4096
"""Batches that wait in a socket; beyond them ZMQ drops, which shows as a gap."""
REPLAY_SECONDS: Final = 5.0
"""Longest pause in a replay; vLLM looks for replay requests between two batches, ten times a second at rest."""
AUDIT_SECONDS: Final = 10.0
"""A silent engine is asked this often whether something was missed."""
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
"""Pause between two replays; doubles while they find gaps that they can't fill."""
TOPIC_PREFIX: Final = b"kv@"

Frames = list[bytes]


class Sink(Protocol):
    """Where the events go: one engine's cache in the index."""

    def apply(self, events: Sequence[Event]) -> Iterator[int]:
        """Take over a batch in slices."""
        ...

    def reset(self) -> None:
        """Forget everything: what is known can't be relied on."""
        ...


class Noted(StrEnum):
    """What is counted about batches."""

    APPLIED = "applied"
    REPLAYED = "replayed"
    DUPLICATE = "duplicate"
    """Came again, or out of order: known already."""
    MALFORMED = "malformed"
    """Not three frames, no number, or no batch."""
    FOREIGN = "foreign"
    """Of another engine by its topic."""
    UNREADABLE_EVENT = "unreadable-event"
    GAP = "gap"
    """Numbers were missing."""
    LOST = "lost"
    """Missing batches that could not be had: what was known of the engine was dropped."""
    RESTART = "restart"
    """The engine began to count anew."""
    REPLAY_FAILED = "replay-failed"
    """The engine did not answer a request for a replay."""


class Subscription:
    """Follows one publisher from :meth:`start` until :meth:`close`."""

    def __init__(
        self,
        context: zmq.Context[Any],
        *,
        live: str,
        replay: str | None,
        engine: str,
        sink: Sink,
        clock: Clock,
        noted: Counter[Noted],
    ) -> None:
        self._context = context
        self._live_endpoint = live
        self._replay_endpoint = replay
        self._topic = b"%b%b@" % (TOPIC_PREFIX, engine.encode())
        self._engine = engine
        self._sink = sink
        self._clock = clock
        self._noted = noted
        self._loop = asyncio.get_running_loop()
        self._live: zmq.Socket[bytes] | None = None
        self._replay: zmq.Socket[bytes] | None = None
        self._turning: asyncio.Handle | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._audit: asyncio.TimerHandle | None = None
        self._work: Iterator[int] | None = None
        """The batch that is being applied."""
        self._held: tuple[int, Batch] | None = None
        """The live batch that showed a gap."""
        self._expected = 0
        self._newest = float("-inf")
        """Time of the newest batch, on the engine's clock."""
        self._next_replay = float("-inf")
        self._pause = FIRST_PAUSE_SECONDS
        self.confirmed_at: float | None = None
        """When what is known was last known to be complete, by the clock; None before the engine was first heard."""

    def start(self) -> None:
        """Connect, and ask for what happened before. Raises zmq.ZMQError for an endpoint that is none."""
        live = self._context.socket(zmq.SUB)
        live.set(zmq.RCVHWM, QUEUED_BATCHES)
        live.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        live.set(zmq.LINGER, 0)
        live.subscribe(b"")
        live.connect(self._live_endpoint)
        self._live = live
        self._loop.add_reader(_descriptor(live), self._turn_soon)
        self._ask_replay()
        self._audit = self._loop.call_later(AUDIT_SECONDS, self._look_for_silence)

    def close(self) -> None:
        """Stop following."""
        for handle in (self._turning, self._patience, self._audit):
            if handle is not None:
                handle.cancel()
        self._turning = self._patience = self._audit = self._work = None
        for socket in (self._live, self._replay):
            if socket is not None:
                self._drop(socket)
        self._live = self._replay = None

    # --- turns

    def _turn_soon(self) -> None:
        if self._turning is None and self._live is not None:
            self._turning = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Work off what is there. ZMQ's descriptor tells of new messages only once, so sockets are read until empty."""
        self._turning = None
        until = self._clock.monotonic() + TURN_SECONDS
        while True:
            if self._work is not None:
                for _ in self._work:
                    if self._clock.monotonic() >= until:
                        self._turn_soon()
                        return
                self._work = None
            if self._clock.monotonic() >= until:
                self._turn_soon()
                return
            socket = self._live if self._replay is None else self._replay
            if socket is None:
                return
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if socket is self._replay:
                self._take_replayed(frames)
            else:
                self._take_live(frames)

    # --- live

    def _take_live(self, frames: Frames) -> None:
        if len(frames) != 3 or len(frames[1]) != SEQUENCE_BYTES:
            self._noted[Noted.MALFORMED] += 1
            return
        topic, number_bytes, payload = frames
        if topic.startswith(TOPIC_PREFIX) and not topic.startswith(self._topic):
            self._noted[Noted.FOREIGN] += 1
            return
        number = int.from_bytes(number_bytes, "big")
        batch = read_batch(payload)
        if batch is None:
            self._noted[Noted.MALFORMED] += 1
            if number >= self._expected:
                self._lose()  # it said something, and nobody knows what
                self._expected = number + 1
            return
        if number < self._expected:
            if batch.at <= self._newest:
                self._noted[Noted.DUPLICATE] += 1
                return
            log.info("engine %s counts its cache events anew", self._engine)
            self._noted[Noted.RESTART] += 1
            self._sink.reset()
            self._expected = 0
        if number > self._expected:
            self._noted[Noted.GAP] += 1
            self._fill_gap(number, batch)
            return
        self._apply(number, batch, Noted.APPLIED)

    def _fill_gap(self, number: int, batch: Batch) -> None:
        now = self._clock.monotonic()
        if self._replay_endpoint is None or now < self._next_replay:
            self._lose()
            self._apply(number, batch, Noted.APPLIED)
            return
        self._held = (number, batch)
        self._ask_replay()

    def _apply(self, number: int, batch: Batch, note: Noted) -> None:
        self._expected = number + 1
        self._newest = max(self._newest, batch.at)
        self._noted[note] += 1
        self._noted[Noted.UNREADABLE_EVENT] += batch.unreadable
        self.confirmed_at = self._clock.monotonic()
        self._work = self._sink.apply(batch.events)

    def _lose(self) -> None:
        self._noted[Noted.LOST] += 1
        self._sink.reset()

    # --- replay

    def _look_for_silence(self) -> None:
        """The last batches before a silence may be lost, and nothing after them shows it."""
        now = self._clock.monotonic()
        if self._replay is None and (self.confirmed_at is None or now - self.confirmed_at >= AUDIT_SECONDS):
            self._ask_replay()
        self._audit = self._loop.call_later(AUDIT_SECONDS, self._look_for_silence)

    def _ask_replay(self) -> None:
        if self._replay_endpoint is None:
            return
        socket = self._context.socket(zmq.DEALER)
        socket.set(zmq.RCVHWM, QUEUED_BATCHES)
        socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        socket.set(zmq.LINGER, 0)
        socket.connect(self._replay_endpoint)
        self._loop.add_reader(_descriptor(socket), self._turn_soon)
        self._replay = socket
        socket.send_multipart((b"", self._expected.to_bytes(SEQUENCE_BYTES, "big")), zmq.NOBLOCK)
        self._be_patient()
        self._turn_soon()

    def _take_replayed(self, frames: Frames) -> None:
        if len(frames) != 4 or len(frames[2]) != SEQUENCE_BYTES:
            self._noted[Noted.MALFORMED] += 1
            return
        self._be_patient()
        _, _, number_bytes, payload = frames
        if number_bytes == END_OF_REPLAY:
            self._end_replay(answered=True)
            return
        number = int.from_bytes(number_bytes, "big")
        if number < self._expected:
            self._noted[Noted.DUPLICATE] += 1
            return
        batch = read_batch(payload)
        if batch is None:
            self._noted[Noted.MALFORMED] += 1
            return  # the hole shows at the next number
        if number > self._expected:
            self._missed()
        self._apply(number, batch, Noted.REPLAYED)

    def _replay_failed(self) -> None:
        self._noted[Noted.REPLAY_FAILED] += 1
        for _ in self._work or ():
            pass  # a timer may come in the middle of a batch; what follows builds on it
        self._end_replay(answered=False)
        self._turn_soon()

    def _end_replay(self, *, answered: bool) -> None:
        if self._patience is not None:
            self._patience.cancel()
        if self._replay is not None:
            self._drop(self._replay)
            self._replay = None
        now = self._clock.monotonic()
        held, self._held = self._held, None
        filled = held is None or held[0] <= self._expected
        self._pause = FIRST_PAUSE_SECONDS if filled else min(LONGEST_PAUSE_SECONDS, 2 * self._pause)
        if held is not None:
            self._next_replay = now + self._pause
        if answered:
            self.confirmed_at = now
        if held is not None and held[0] >= self._expected:
            if held[0] > self._expected:
                self._missed()
            self._apply(*held, Noted.APPLIED)

    def _missed(self) -> None:
        """Batches are gone for good. Nothing is lost with them where nothing was known yet."""
        if self._expected:
            self._lose()

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self._loop.call_later(REPLAY_SECONDS, self._replay_failed)

    def _drop(self, socket: zmq.Socket[bytes]) -> None:
        self._loop.remove_reader(_descriptor(socket))
        socket.close(linger=0)


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    """Becomes readable when something about the socket changes."""
    return int(socket.get(zmq.FD))
