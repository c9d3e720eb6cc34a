"""A listener with a request and an engine around it, without a router."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, cast

import msgspec

from paceline.api import wire
from paceline.clock import VirtualClock
from paceline.policy.health.output import OutputHealth
from paceline.policy.health.pace import Pace
from paceline.policy.routing.fleet import NominalModel
from paceline_worker.router.fleet import Engine
from paceline_worker.router.hints import Hints
from paceline_worker.router.incoming import Incoming
from paceline_worker.router.parse import Kind, Rules, parse
from paceline_worker.router.places import Place
from paceline_worker.router.resume.transcript import Transcript
from paceline_worker.router.stream import StreamRelay
from paceline_worker.router.wellness.listening import Listening

MODEL = "m"
RULES = Rules(models=frozenset((MODEL,)), adapters=frozenset(), max_model_len=None)
EVENT = (
    '{"id":"cmpl-1","object":"text_completion","created":0,"model":"m","choices":[{"index":0,"text":%s,"logprobs":null,'
    '"finish_reason":%s,"stop_reason":null,"token_ids":[%d],"prompt_logprobs":null,"prompt_token_ids":%s}],"usage":null}'
)


def engine(name: str, role: wire.Role = wire.Role.BOTH) -> Engine:
    return Engine(
        wire.EngineEndpoint(name=name, host="h", port=1, role=role, state=wire.EngineState.READY, start_id="1")
    )


class Somewhere:
    """A place with a decode engine, and a prefill engine if it is given."""

    def __init__(self, decode: Engine, prefill: Engine | None = None) -> None:
        self.decode = decode
        self.prefill = prefill


def place(decode: str = "e", prefill: str | None = None) -> Place:
    made = None if prefill is None else engine(prefill, wire.Role.PREFILL)
    return cast("Place", Somewhere(engine(decode), made))


def incoming(prompt: object = "Say something, please.", kind: Kind = Kind.COMPLETION, **fields: Any) -> Incoming:
    asked = {"messages": prompt} if kind is Kind.CHAT else {"prompt": prompt}
    body = msgspec.json.encode({"model": MODEL, "stream": True, **asked, **fields})
    return Incoming(
        call=parse(kind, body, RULES), hints=Hints(), target=b"/", headers=b"", request_id=(b"x-request-id", b"r1"),
        arrived=0.0,
    )  # fmt: skip


def listening(*, keep_samples: int = 0, hears: bool = True) -> Listening:
    return Listening(
        OutputHealth(), Pace(), NominalModel(), VirtualClock(), hears=hears, keep_samples=keep_samples
    )  # fmt: skip


def events(texts: list[str], tokens: list[int], *, reason: str = "length") -> list[bytes]:
    """The stream of an answer, an event a piece."""
    told = []
    for number, (text, token) in enumerate(zip(texts, tokens, strict=True)):
        ending = f'"{reason}"' if number == len(texts) - 1 else "null"
        quoted = msgspec.json.encode(text).decode()
        told.append(f"data: {EVENT % (quoted, ending, token, 'null' if number else '[1,2]')}\n\n".encode())
    return [*told, b"data: [DONE]\n\n"]


class Pieces:
    """Delivers the pieces of a stream."""

    def __init__(self, pieces: list[bytes], *, cut: bool) -> None:
        self._pieces = pieces
        self._cut = cut

    async def relay(self, take: Any) -> None:
        for piece in self._pieces:
            take(piece)
        if self._cut:
            raise Broken

    def pause(self) -> None:
        """Nothing to hold back."""

    resume = reject = pause


class Reader:
    """A client that takes everything and keeps nothing."""

    def on_backpressure(self, pause: object, resume: object) -> None:
        """Nobody is slow here."""

    def start(self, status: int, headers: object) -> None:
        """Nothing to note."""

    def write(self, data: bytes) -> None:
        """Nothing to note."""

    def end(self) -> None:
        """Nothing to note."""


class Broken(Exception):
    """The stream ends before its time."""


async def relay(
    shared: Listening, asked: Incoming, where: Place, pieces: list[bytes], *, ids: bool = True, whole: bool = True
) -> None:
    """Relay a stream as the flow does; one that is not ``whole`` ends in the middle."""
    transcript = Transcript(show_ids=False) if ids else None
    listener = shared.to(asked, where, transcript)
    exchange = cast("Any", Pieces(pieces if whole else pieces[:-1], cut=not whole))
    relay = StreamRelay(exchange, cast("Any", Reader()), (), VirtualClock(), lambda: None, transcript, listener)
    with suppress(Broken):
        await relay.run()
