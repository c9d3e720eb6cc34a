"""One stream on its way to the client: passed on as it comes, with nothing decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from paceline.clock import Clock
from paceline_worker.http.client import Exchange
from paceline_worker.http.errors import UpstreamClosed, UpstreamGarbage
from paceline_worker.http.headers import Headers
from paceline_worker.http.message import Response
from paceline_worker.router.resume.transcript import Transcript
from paceline_worker.router.wellness.listening import LOOK_EVERY, Listener

_BEGINNINGS: Final = b"deir:"
"""First letters of ``data``, ``event``, ``id``, ``retry`` and of a comment. A page of HTML or JSON has none of them."""
_EVENT: Final = b"data: "
_NOT_TOKENS: Final = 2
"""Events that carry no token: the closing ``[DONE]``, and a chat's opening role or a completion's closing reason."""


class StreamRelay:
    """Takes pieces of an engine's stream. The client's answer begins with the first, so that failures before it are
    invisible.
    """

    __slots__ = (
        "_checked", "_clock", "_events", "_exchange", "_headers", "_keep", "_last_at", "_listener", "_look_at",
        "_on_first", "_response", "_transcript", "first_at",
    )  # fmt: skip

    def __init__(
        self,
        exchange: Exchange,
        response: Response,
        headers: Headers,
        clock: Clock,
        on_first: Callable[[], None],
        transcript: Transcript | None,
        listener: Listener | None,
    ) -> None:
        self._transcript = transcript
        self._listener = listener
        self._keep = listener.keep if listener is not None and listener.keeps else None
        self._look_at = LOOK_EVERY
        self._exchange = exchange
        self._response = response
        self._headers = headers
        self._clock = clock
        self._on_first = on_first
        self._checked = False
        """Whether its first piece was looked at."""
        self._events = 0
        self._last_at = 0.0
        self.first_at: float | None = None
        """When the first piece came, by the clock; None while there was none."""

    async def run(self) -> None:
        """Pass on the whole stream. Raises an UpstreamError; the client has seen nothing while ``first_at`` is None.

        With a transcript, a stream that ends before its closing event, or in an error of the engine's, is broken too.
        """
        whole = False
        try:
            self._response.on_backpressure(self._exchange.pause, self._exchange.resume)
            await self._exchange.relay(self._take)
            if self.first_at is None:
                raise UpstreamClosed("its stream is empty")
            if self._transcript is not None and not self._transcript.done:
                raise UpstreamClosed("its stream ends in the middle")
            self._response.end()
            whole = True
        finally:
            if self._listener is not None:
                self._listener.end(self.tokens, whole=whole, gap_seconds=self.mean_gap())

    def _take(self, piece: bytes) -> None:
        now = self._clock.monotonic()
        # A first event with the ids of a long prompt comes in many pieces, and nothing is passed on before its end.
        checked, self._checked = self._checked, True
        if not checked and piece[0] not in _BEGINNINGS:
            self._exchange.reject(UpstreamGarbage("its stream is not one of events"))
            return
        if self._transcript is not None:
            piece = self._transcript.take(piece)
            if self._transcript.fault is not None:
                self._exchange.reject(UpstreamGarbage(f"it says: {self._transcript.fault}", plain="it says so"))
            if not piece:
                return
        if self.first_at is None:
            self.first_at = now
            self._on_first()
            self._response.start(200, self._headers)
        self._response.write(piece)
        self._events += piece.count(_EVENT)
        self._last_at = now
        if self._keep is not None:
            self._keep(piece)
        if self._events >= self._look_at and self._listener is not None:
            self._look_at = self._listener.look(self._events)

    @property
    def tokens(self) -> int:
        """Tokens of the answer, taking each event for one."""
        return max(0, self._events - _NOT_TOKENS)

    def mean_gap(self) -> float | None:
        """Seconds between tokens, taking each event for one; None when there were fewer than two."""
        gaps = self._events - _NOT_TOKENS - 1
        if self.first_at is None or gaps < 1:
            return None
        return (self._last_at - self.first_at) / gaps
