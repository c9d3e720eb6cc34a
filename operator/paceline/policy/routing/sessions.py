"""Which engines served a session last, so that near-ties go their way. Used by the router."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

MAX_SESSIONS: Final = 100_000
"""About 30 MB; the least recently used is forgotten first."""

_NONE: Final[frozenset[str]] = frozenset()


class Sessions:
    """Engines by session for ``ttl_seconds`` after its last request. Times are seconds on the caller's clock."""

    def __init__(self, *, ttl_seconds: float, max_sessions: int = MAX_SESSIONS) -> None:
        self._ttl = ttl_seconds
        self._max = max_sessions
        self._sessions: OrderedDict[str, tuple[float, frozenset[str]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def engines(self, session: str | None, parent: str | None, now: float) -> frozenset[str]:
        """Engines of the session; those of its ``parent`` while it has none of its own."""
        for name in (session, parent):
            if name is not None:
                at, engines = self._sessions.get(name, (now, _NONE))
                if engines and now - at <= self._ttl:
                    return engines
        return _NONE

    def note(self, session: str, engines: Iterable[str], now: float) -> None:
        """A request of the session runs on ``engines``."""
        self._sessions[session] = (now, frozenset(engines))
        self._sessions.move_to_end(session)
        while len(self._sessions) > self._max:
            self._sessions.popitem(last=False)

    def expire(self, now: float) -> None:
        """Forget what is over."""
        while self._sessions:
            at, _ = next(iter(self._sessions.values()))
            if now - at <= self._ttl:
                return
            self._sessions.popitem(last=False)
