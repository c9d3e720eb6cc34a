"""One request of a trace, and a trace as a whole. Every reader and generator returns these; every consumer takes
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from paceline.errors import ConfigError

ANSWER_BASE_SECONDS: Final = 0.5
ANSWER_TOKEN_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request: when it came, how much went in and out, and what it shared with others.

    ``blocks`` holds one id per started block of ``block_size`` prompt tokens, so
    ``len(blocks) == ceil(input_tokens / block_size)`` unless it is empty (nothing is known of prefixes). Equal ids
    at equal positions after equal ids stand for equal tokens; the last id covers only what is left of the prompt.
    """

    arrival_seconds: float
    """From the start of the trace."""
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()
    block_size: int = 512
    session: str | None = None
    """Conversation that the request belongs to, where the trace says so."""


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A row of a trace file that was left out, and why."""

    line: int
    """Counted from 1."""
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival, and what was wrong with the rows that are missing."""

    name: str
    requests: tuple[TraceRequest, ...]
    malformed: int = 0
    """Rows left out. All are counted; ``problems`` describes only the first few."""
    problems: tuple[RowProblem, ...] = ()

    def window(self, *, start_seconds: float, seconds: float) -> Trace:
        """The requests that arrived in ``[start, start + seconds)``, with arrivals counted from the window's start.

        Raises :class:`ConfigError` when the window is empty, because a load of nothing proves nothing.
        """
        end = start_seconds + seconds
        chosen = tuple(
            replace(request, arrival_seconds=request.arrival_seconds - start_seconds)
            for request in self.requests
            if start_seconds <= request.arrival_seconds < end
        )
        if not chosen:
            last = self.requests[-1].arrival_seconds / 60 if self.requests else 0.0
            raise ConfigError(
                f"{self.name}: no request arrives between minute {start_seconds / 60:g} and minute {end / 60:g}; "
                f"the last one arrives at minute {last:.1f}. Choose an earlier --start-minute."
            )
        return replace(self, requests=chosen)

    def at_rate(self, factor: float) -> Trace:
        """The same requests arriving ``factor`` times as fast. Raises ValueError unless the factor is positive."""
        if not factor > 0:
            raise ValueError(f"the rate factor must be above 0: {factor}")
        if factor == 1:
            return self
        return replace(
            self,
            requests=tuple(replace(r, arrival_seconds=r.arrival_seconds / factor) for r in self.requests),
        )

    def spread_ticks(self) -> Trace:
        """The same requests with those that share an arrival time spread evenly until the next arrival time.

        Some recorders round arrivals to a clock of seconds. Replayed as they are, such ticks are bursts that never
        happened. The last tick is taken to be as long as the one before it.
        """
        ticks = sorted({request.arrival_seconds for request in self.requests})
        if len(ticks) < 2:
            return self
        ends = dict(zip(ticks, [*ticks[1:], 2 * ticks[-1] - ticks[-2]], strict=True))
        size = Counter(request.arrival_seconds for request in self.requests)
        seen: Counter[float] = Counter()
        spread = []
        for request in self.requests:
            tick = request.arrival_seconds
            offset = (ends[tick] - tick) * seen[tick] / size[tick]
            seen[tick] += 1
            spread.append(replace(request, arrival_seconds=tick + offset))
        return replace(self, requests=tuple(spread))

    def fitting(self, max_model_len: int) -> tuple[Trace, int]:
        """The requests whose prompt and output fit a model's length, and how many did not."""
        fit = tuple(r for r in self.requests if r.input_tokens + r.output_tokens <= max_model_len)
        return replace(self, requests=fit), len(self.requests) - len(fit)


def assumed_answer_seconds(output_tokens: int) -> float:
    """Time from a request to the end of its answer, where a trace says only what comes after it."""
    return ANSWER_BASE_SECONDS + ANSWER_TOKEN_SECONDS * output_tokens


def in_order(requests: Iterable[TraceRequest]) -> tuple[TraceRequest, ...]:
    """Sort by arrival; requests that arrive together keep the order they came in."""
    return tuple(sorted(requests, key=lambda request: request.arrival_seconds))
