"""Talks to engine workers about their drain: ``POST /drain`` until they know, then ``GET /state`` until nothing is in
flight. Called by the reconcile pass for draining pods, and, without the first, for those that are to change their role.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

import aiohttp
import msgspec

from paceline.policy.lifecycle.observed import Pod
from paceline.unreadable import UNREADABLE

TIMEOUT_SECONDS: Final = 2.0
AT_ONCE: Final = 32
"""Workers that are asked at the same time."""
LONGEST_ANSWER: Final = 65_536
ENDED: Final = frozenset({"stopped", "failed"})
KNOWS: Final = ENDED | {"draining"}
"""States of a worker that takes no new work."""


class WorkerState(msgspec.Struct, frozen=True, rename="camel"):
    """What a worker says of itself. Other fields are for people."""

    state: str
    in_flight: int | None = None
    held_blocks: bool = False
    """Whether KV blocks of finished prompts wait to be fetched by a decode engine."""


class EngineWorkers:
    """A client of all engine workers. :meth:`close` it."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS), connector=aiohttp.TCPConnector(limit=AT_ONCE)
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def drain(self, pods: Iterable[Pod]) -> frozenset[str]:
        """Have all ``pods`` drain; the names of those that have nothing in flight any more."""
        return await self._idle(pods, drains=True)

    async def idle(self, pods: Iterable[Pod]) -> frozenset[str]:
        """The names of those ``pods`` that have nothing in flight. They go on as they are."""
        return await self._idle(pods, drains=False)

    async def _idle(self, pods: Iterable[Pod], *, drains: bool) -> frozenset[str]:
        asked = list(pods)
        answers = await asyncio.gather(*(self._is_idle(pod, drains=drains) for pod in asked))
        return frozenset(pod.name for pod, idle in zip(asked, answers, strict=True) if idle)

    async def _is_idle(self, pod: Pod, *, drains: bool) -> bool:
        if not pod.ip or not pod.admin_port:
            return True  # it never ran
        base = f"http://{pod.ip}:{pod.admin_port}"
        try:
            state = await self._state(base)
            if drains and state is not None and state.state not in KNOWS:
                async with self._session.post(f"{base}/drain"):
                    state = await self._state(base)
        except aiohttp.ClientConnectorError as error:
            # Nothing listens there: the worker is gone, and its engine and all work with it. Anything else may be the
            # network, and the engine is waited for until its drain time is over.
            return isinstance(error.os_error, ConnectionRefusedError)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        if state is None or (drains and state.state not in KNOWS):
            return False
        return state.state in ENDED or (state.in_flight == 0 and not state.held_blocks)

    async def _state(self, base: str) -> WorkerState | None:
        async with self._session.get(f"{base}/state") as answer:
            body = await answer.content.read(LONGEST_ANSWER)
        if answer.status != 200:
            return None
        try:
            return msgspec.json.decode(body, type=WorkerState)
        except UNREADABLE:
            return None
