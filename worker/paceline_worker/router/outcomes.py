"""What the planner has to know of requests besides their arrival: how long answers were, and whether they met the
objective.

Counted where requests end, read through the router's metrics page. Answers are counted by the length of their prompt,
so that output lengths can be predicted from prompts; the buckets are those of the prompts at arrival.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from paceline.api.wire import Objective
from paceline.unreadable import UNREADABLE
from paceline_worker.router.metrics import PREFIX, TOKEN_BUCKETS

MET: Final = "met"
MISSED: Final = "missed"
_BUCKETS: Final = (*(str(int(bound)) for bound in TOKEN_BUCKETS), "+Inf")


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    """What matters of an answer that is not a stream."""

    usage: _Usage = msgspec.field(default_factory=_Usage)


_ANSWER: Final = msgspec.json.Decoder(_Answer)


class Outcomes(Collector):
    """Counters of ended requests. ``objective``: that of requests which belong to no class."""

    def __init__(self, objective: Objective) -> None:
        self._ttft_seconds = objective.ttft_milliseconds / 1000
        self._itl_seconds = objective.itl_milliseconds / 1000
        self._begun = {MET: 0, MISSED: 0}
        self._ended = {(ttft, itl): 0 for ttft in (MET, MISSED) for itl in (MET, MISSED)}
        self._answers = [0] * len(_BUCKETS)
        self._prompt_tokens = [0] * len(_BUCKETS)
        self._answer_tokens = [0] * len(_BUCKETS)

    def begun(self, ttft: float, limit: float | None) -> bool:
        """A stream got its first token after ``ttft`` seconds; ``limit``: its own objective. Whether that was met."""
        met = ttft <= (self._ttft_seconds if limit is None else limit)
        self._begun[MET if met else MISSED] += 1
        return met

    def ended(self, *, ttft_met: bool, itl: float | None) -> None:
        """A stream ended, with ``itl`` seconds between tokens; None where there were fewer than two."""
        itl_met = itl is None or itl <= self._itl_seconds
        self._ended[MET if ttft_met else MISSED, MET if itl_met else MISSED] += 1

    def refused(self) -> None:
        """A request was refused for want of room: it met nothing."""
        self._begun[MISSED] += 1
        self._ended[MISSED, MISSED] += 1

    def answered(self, prompt_tokens: int, answer_tokens: int) -> None:
        """A whole answer went out."""
        bucket = bisect_left(TOKEN_BUCKETS, prompt_tokens)
        self._answers[bucket] += 1
        self._prompt_tokens[bucket] += prompt_tokens
        self._answer_tokens[bucket] += answer_tokens

    def answered_whole(self, prompt_tokens: int, body: bytes) -> int:
        """The same for an answer that was no stream. Returns how long it was by its own word."""
        try:
            tokens = _ANSWER.decode(body).usage.completion_tokens
        except UNREADABLE:
            return 0
        if tokens > 0:
            self.answered(prompt_tokens, tokens)
        return max(0, tokens)

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families as they are now."""
        first = CounterMetricFamily(PREFIX + "first_tokens", "First tokens, or refusals, by TTFT.", labels=("ttft",))
        for met, count in self._begun.items():
            first.add_metric((met,), count)
        yield first
        ended = CounterMetricFamily(PREFIX + "objective", "Ended streams, or refusals.", labels=("ttft", "itl"))
        for labels, count in self._ended.items():
            ended.add_metric(labels, count)
        yield ended
        for name, text, counts in (
            ("answers", "Whole answers by the length of their prompts.", self._answers),
            ("answer_prompt_tokens", "Prompt tokens of those.", self._prompt_tokens),
            ("answer_tokens", "Output tokens of those.", self._answer_tokens),
        ):
            family = CounterMetricFamily(PREFIX + name, text, labels=("prompt",))
            for bucket, count in zip(_BUCKETS, counts, strict=True):
                family.add_metric((bucket,), count)
            yield family
