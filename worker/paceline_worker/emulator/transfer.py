"""KV blocks between emulators: what takes NIXL's place on the side channel.

What travels is the state of the prompt, which decides every token after it. How long real blocks would have taken comes
from the engine model and is waited for between the two halves of the exchange. Lines of JSON: ``{"pull": request}`` is
answered with ``{"state", "tokens"}`` or ``{"error"}``, then ``{"done": request}`` lets the holder free its blocks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec

from paceline.errors import EngineError
from paceline.unreadable import UNREADABLE

log = logging.getLogger(__name__)

CONNECT_SECONDS: Final = 2.0
REPLY_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 600.0
"""A puller that says nothing for so long has lost its connection."""
MAX_LINE: Final = 4096


class TransferError(Exception):
    """Blocks could not be fetched; the prompt is computed instead."""


class _Message(msgspec.Struct):
    pull: str | None = None
    done: str | None = None
    state: int | None = None
    tokens: int = 0
    error: str | None = None


class Location(msgspec.Struct):
    """Where blocks are, out of ``kv_transfer_params``."""

    remote_host: str
    remote_port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]
    remote_request_id: str
    remote_engine_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    state: int
    tokens: int
    free: Callable[[], None]
    expiry: asyncio.TimerHandle


class BlockSource:
    """Keeps finished prompts for other engines until they were fetched or their lease is over."""

    def __init__(self, lease_seconds: float, on_expired: Callable[[], None]) -> None:
        self._lease_seconds = lease_seconds
        self._on_expired = on_expired
        self._held: dict[str, _Held] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @property
    def held(self) -> int:
        """Prompts that are kept."""
        return len(self._held)

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises EngineError when the address can't be bound."""
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=MAX_LINE)
        except OSError as error:
            raise EngineError(
                f"The KV side channel can't listen on {host}:{port}: {error.strerror}. "
                "Set VLLM_NIXL_SIDE_CHANNEL_PORT to a free port."
            ) from None
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and forget what is kept."""
        for held in self._held.values():
            held.expiry.cancel()
        self._held.clear()
        if self._server is not None:
            self._server.close()
        for task in tuple(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def hold(self, request: str, *, state: int, tokens: int, free: Callable[[], None]) -> None:
        """Keep a prompt; ``free`` is called when its blocks are no longer needed."""
        expiry = asyncio.get_running_loop().call_later(self._lease_seconds, self._expire, request)
        self._held[request] = _Held(state, tokens, free, expiry)

    def _expire(self, request: str) -> None:
        log.warning("nobody fetched the blocks of %s within %g s: they are freed", request, self._lease_seconds)
        self._on_expired()
        self._release(request)

    def _release(self, request: str) -> None:
        held = self._held.pop(request, None)
        if held is not None:
            held.expiry.cancel()
            held.free()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="kv side channel")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await asyncio.wait_for(reader.readline(), IDLE_SECONDS):
                message = msgspec.json.decode(line, type=_Message)
                if message.pull is not None:
                    held = self._held.get(message.pull)
                    if held is None:
                        reply: dict[str, Any] = {"error": "no such blocks: never held, freed or expired"}
                    else:
                        reply = {"state": held.state, "tokens": held.tokens}
                    writer.write(msgspec.json.encode(reply) + b"\n")
                    await writer.drain()
                elif message.done is not None:
                    self._release(message.done)
        except (OSError, TimeoutError, ValueError, *UNREADABLE) as error:
            log.info("a KV side channel connection ended early: %s %s", type(error).__name__, error)
        finally:
            writer.close()


async def fetch(location: Location, *, tokens: int, seconds: float) -> int:
    """Get the state of a prompt of ``tokens`` tokens, which takes at least ``seconds``, and let its holder free it.

    Raises TransferError. A caller that is cancelled leaves the blocks to their lease.
    """
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(location.remote_host, location.remote_port, limit=MAX_LINE)
    except (OSError, TimeoutError, ValueError) as error:
        raise TransferError(f"{location.remote_host}:{location.remote_port} can't be reached: {error}") from None
    try:
        writer.write(msgspec.json.encode({"pull": location.remote_request_id}) + b"\n")
        async with asyncio.timeout(REPLY_SECONDS):
            reply = msgspec.json.decode(await reader.readline(), type=_Message)
        if reply.state is None:
            raise TransferError(reply.error or "the other engine answered without blocks")
        if reply.tokens != tokens:
            raise TransferError(f"the other engine holds {reply.tokens} tokens, the prompt has {tokens}")
        await asyncio.sleep(seconds)
        writer.write(msgspec.json.encode({"done": location.remote_request_id}) + b"\n")
        await writer.drain()
    except (OSError, TimeoutError, ValueError, *UNREADABLE) as error:
        raise TransferError(f"the other engine broke off: {type(error).__name__} {error}") from None
    else:
        return reply.state
    finally:
        writer.close()


async def discard(location: Location) -> None:
    """Tell the holder that its blocks won't be fetched. Best effort: their lease ends anyway."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(location.remote_host, location.remote_port, limit=MAX_LINE)
            writer.write(msgspec.json.encode({"done": location.remote_request_id}) + b"\n")
            await writer.drain()
            writer.close()
    except (OSError, TimeoutError, ValueError) as error:
        log.info("blocks at %s:%d are left to their lease: %s", location.remote_host, location.remote_port, error)
