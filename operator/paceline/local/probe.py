"""HTTP questions to local pods: is it ready, and what do its metrics say. One session serves all of them."""

from __future__ import annotations

from typing import Final

import aiohttp
import msgspec

from paceline.local.kubelet import Readiness
from paceline.local.pods import LOOPBACK
from paceline.unreadable import UNREADABLE

TIMEOUT: Final = aiohttp.ClientTimeout(total=2.0)
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""Largest page of metrics that is read."""
REASON_CHARACTERS: Final = 200


class _NotReady(msgspec.Struct):
    state: str = ""
    reason: str = ""


class _Work(msgspec.Struct, rename="camel"):
    in_flight: int | None = None
    held_blocks: bool = False


class PodClient:
    """Talks to pods on loopback. Silence, garbage and refused connections are answers, not errors."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ready(self, admin_port: int) -> Readiness:
        """Ask ``/readyz``."""
        try:
            async with self._session.get(f"http://{LOOPBACK}:{admin_port}/readyz", timeout=TIMEOUT) as answer:
                body = await _bounded(answer)
        except aiohttp.ClientConnectorError:
            return Readiness(False, answered=False)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Readiness(False, f"does not answer ({type(error).__name__})", answered=False)
        if answer.status == 200:
            return Readiness(True)
        return Readiness(False, _reason(body) or f"answers {answer.status}")

    async def idle(self, admin_port: int) -> bool:
        """Ask ``/state`` whether nothing is in flight and no blocks wait to be fetched; False where nothing is said."""
        try:
            async with self._session.get(f"http://{LOOPBACK}:{admin_port}/state", timeout=TIMEOUT) as answer:
                said = msgspec.json.decode(await _bounded(answer), type=_Work)
        except (aiohttp.ClientError, TimeoutError, OSError, *UNREADABLE):
            return False
        return answer.status == 200 and said.in_flight == 0 and not said.held_blocks

    async def metrics(self, port: int) -> str | None:
        """The text of ``/metrics``; None when there is none to be had."""
        try:
            async with self._session.get(f"http://{LOOPBACK}:{port}/metrics", timeout=TIMEOUT) as answer:
                if answer.status != 200:
                    return None
                body = await _bounded(answer)
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return body.decode("utf-8", "replace")


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    room = MAX_BODY_BYTES
    while room > 0 and (part := await answer.content.read(room)):
        parts.append(part)
        room -= len(part)
    return b"".join(parts)


def _reason(body: bytes) -> str:
    try:
        said = msgspec.json.decode(body, type=_NotReady)
    except UNREADABLE:
        return ""
    return " ".join((said.reason or said.state).split())[:REASON_CHARACTERS]
