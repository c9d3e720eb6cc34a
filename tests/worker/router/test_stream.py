"""Pieces of a stream are not its events: they end wherever the network cut them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from paceline.clock import VirtualClock
from paceline_worker.http.errors import UpstreamGarbage
from paceline_worker.router.resume.transcript import Transcript
from paceline_worker.router.stream import StreamRelay

EVENT = b'data: {"choices":[{"text":"%b","token_ids":[%d],"prompt_token_ids":%b}]}\n\n'
LONG_PROMPT = b"[" + b",".join(b"%d" % token for token in range(20_000)) + b"]"
STREAM = EVENT % (b"a", 1, LONG_PROMPT) + EVENT % (b"b", 2, b"null") + b"data: [DONE]\n\n"


class FakeExchange:
    """Delivers pieces until one is rejected."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self.rejected: Exception | None = None

    async def relay(self, take: Callable[[bytes], None]) -> None:
        for piece in self._pieces:
            take(piece)
            if self.rejected is not None:
                raise self.rejected

    def reject(self, error: Exception) -> None:
        self.rejected = error

    def pause(self) -> None:
        """Nothing to hold back."""

    resume = pause


class FakeResponse:
    """What the client got."""

    def __init__(self) -> None:
        self.status, self.body = 0, b""

    def on_backpressure(self, pause: object, resume: object) -> None:
        """Nobody is slow here."""

    def start(self, status: int, headers: object) -> None:
        self.status = status

    def write(self, data: bytes) -> None:
        self.body += data

    def end(self) -> None:
        """Nothing more comes."""


async def relayed(pieces: list[bytes]) -> FakeResponse:
    response, transcript = FakeResponse(), Transcript(show_ids=False)
    exchange = cast("Any", FakeExchange(pieces))
    await StreamRelay(exchange, cast("Any", response), (), VirtualClock(), lambda: None, transcript, None).run()
    return response


@pytest.mark.parametrize("size", [100, 4096, 65_536])
async def test_a_first_event_with_the_ids_of_a_long_prompt_may_come_in_many_pieces(size: int) -> None:
    whole = await relayed([STREAM])
    assert b'"text":"a"' in whole.body
    cut = await relayed([STREAM[at : at + size] for at in range(0, len(STREAM), size)])
    assert (cut.status, cut.body) == (200, whole.body)


async def test_what_does_not_begin_like_a_stream_of_events_is_refused() -> None:
    with pytest.raises(UpstreamGarbage):
        await relayed([b"<html>", STREAM])
