"""Which engines' answers are not well, compared with those of the engines beside them. Pure: time is passed in.

For each engine and each part that it plays (it answers, or it computes prompts whose KV blocks another engine answers
from) a window of its last answers is kept: their signs, their lengths, where they came from. An engine stands out when
surely more of its answers bear a sign than of the healthier half of its siblings' (Wilson bounds), from several
sources. A load that makes all engines repeat makes none stand out. For lengths, its own past must differ too: engines
that serve one application for the sake of its prefix have answers of their own length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Final, NamedTuple

from paceline.policy.health.outliers import Share, healthier_half, stands_out
from paceline.policy.health.signs import Sign

WINDOW: Final = 64
"""Answers of an engine that are kept."""
WINDOW_SECONDS: Final = 900.0
"""Older ones say nothing of now."""
LEAST_ANSWERS: Final = 8
"""Of an engine, before it is compared; one that was out before is after LEAST_BAD."""
LEAST_BESIDE: Final = 16
"""Of a sibling, before it is compared with."""
LEAST_BAD: Final = 5
LEAST_SOURCES: Final = 3
"""One prompt, or one conversation, may well make an engine repeat: not its fault."""
FLOOR: Final = 0.2
"""Surely so large a share of its answers must bear the sign."""
LONG_FLOOR: Final = 0.4
LONG_QUANTILE: Final = 0.9
"""Long is what nine of ten answers of the siblings are not."""
PAST_HALVES_AT: Final = 512
"""Answers of the past that count in full."""
LENGTH_BOUNDS: Final = tuple(round(16 * 2 ** (step / 2)) for step in range(33))
"""16 to a million tokens, two for each doubling."""


class Part(StrEnum):
    """What an engine did for an answer."""

    ANSWERED = "answered"
    PREFILLED = "prefilled"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is kept of one answer."""

    at: float
    signs: frozenset[Sign]
    tokens: int | None
    """None where it did not end by itself: its length says nothing."""
    source: int
    """See :func:`paceline.policy.health.signs.source_of`."""


class Verdict(NamedTuple):
    """An engine stands out."""

    engine: str
    part: Part
    sign: Sign
    own: Share
    others: Share

    @property
    def words(self) -> str:
        """For a person."""
        done = "" if self.part is Part.ANSWERED else " whose prompt it computed"
        return (
            f"{self.own.part} of {self.own.whole} answers{done} show {self.sign}; "
            f"of its siblings' {self.others.part} of {self.others.whole}"
        )


class _Window:
    """The answers of one engine in one part."""

    def __init__(self) -> None:
        self.answers: deque[Answer] = deque()
        self.bad: Counter[Sign] = Counter()
        self.lengths = [0] * (len(LENGTH_BOUNDS) + 1)
        self.past = [0.0] * (len(LENGTH_BOUNDS) + 1)
        self.changed = False

    def add(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.bad.update(answer.signs)
        if answer.tokens is not None:
            self.lengths[bisect_left(LENGTH_BOUNDS, answer.tokens)] += 1
        self.changed = True
        self.expire(answer.at)

    def expire(self, now: float) -> None:
        while self.answers and (len(self.answers) > WINDOW or self.answers[0].at < now - WINDOW_SECONDS):
            old = self.answers.popleft()
            self.bad.subtract(old.signs)
            if old.tokens is not None:
                bucket = bisect_left(LENGTH_BOUNDS, old.tokens)
                self.lengths[bucket] -= 1
                self.past[bucket] += 1
                if sum(self.past) > PAST_HALVES_AT:
                    self.past = [count / 2 for count in self.past]

    def forget(self) -> None:
        """Of what was bad nothing is to become the past."""
        self.answers.clear()
        self.bad.clear()
        self.lengths = [0] * len(self.lengths)

    def share(self, sign: Sign) -> Share:
        return Share(self.bad[sign], len(self.answers))

    def longer_than(self, bucket: int) -> Share:
        return Share(sum(self.lengths[bucket + 1 :]), sum(self.lengths))

    def longer_before(self, bucket: int) -> Share:
        return Share(int(sum(self.past[bucket + 1 :])), int(sum(self.past)))

    def median_bucket(self) -> int:
        return _bucket_at(self.lengths, 0.5)

    def sources(self, sign: Sign, bucket: int) -> int:
        """From how many sources the answers with a sign came; with LENGTH those above a bucket."""
        if sign is Sign.LENGTH:
            bound = LENGTH_BOUNDS[bucket]
            found = {one.source for one in self.answers if one.tokens is not None and one.tokens > bound}
        else:
            found = {one.source for one in self.answers if sign in one.signs}
        return len(found)


class OutputHealth:
    """The windows of all engines of one deployment."""

    def __init__(self) -> None:
        self._windows: dict[tuple[str, Part], _Window] = {}

    def __len__(self) -> int:
        return sum(len(window.answers) for window in self._windows.values())

    def note(self, engine: str, part: Part, answer: Answer) -> None:
        """An answer ended, or has shown a sign already."""
        self._windows.setdefault((engine, part), _Window()).add(answer)

    def keep(self, engines: Iterable[str]) -> None:
        """Forget all others."""
        known = set(engines)
        for key in [key for key in self._windows if key[0] not in known]:
            del self._windows[key]

    def forget(self, engine: str) -> None:
        """It is out, or back: what it said so far does not count any more. Its past lengths do."""
        for (name, _), window in self._windows.items():
            if name == engine:
                window.forget()

    def bad(self) -> Iterator[tuple[str, Part, Sign, int]]:
        """Answers with a sign in each window, where there are any."""
        for (engine, part), window in self._windows.items():
            for sign, count in window.bad.items():
                if count:
                    yield engine, part, sign, count

    def verdicts(self, now: float, *, out: Mapping[str, object], again: Iterable[str]) -> list[Verdict]:
        """Engines that stand out now and did not before. ``out``: those that get no work, and are not compared with;
        ``again``: those that came back from that and are not cleared yet.
        """
        suspects = frozenset(again)
        found = []
        for part in Part:
            windows = {
                name: window for (name, side), window in self._windows.items() if side is part and name not in out
            }
            for window in windows.values():
                window.expire(now)
            for name, window in windows.items():
                if window.changed and len(window.answers) >= _least(name in suspects):
                    window.changed = False
                    siblings = [other for other in windows.values() if other is not window]
                    verdict = _judge(name, part, window, siblings)
                    if verdict is not None:
                        found.append(verdict)
        return found

    def alike(self, verdict: Verdict, since: float) -> bool:
        """Whether the engines that took its work over show the same by now: then it was the work, not the engine."""
        answers = [
            answer
            for (name, part), window in self._windows.items()
            if part is verdict.part and name != verdict.engine
            for answer in window.answers
            if answer.at >= since
        ]
        if len(answers) < LEAST_BESIDE or verdict.sign is Sign.LENGTH:
            return False
        bad = sum(verdict.sign in answer.signs for answer in answers)
        return bad >= verdict.own.ratio / 2 * len(answers)


def _least(again: bool) -> int:
    return LEAST_BAD if again else LEAST_ANSWERS


def _judge(engine: str, part: Part, window: _Window, siblings: list[_Window]) -> Verdict | None:
    for sign in (Sign.ONE_TOKEN, Sign.REPETITION, Sign.SCRIPT):
        own = window.share(sign)
        if own.part < LEAST_BAD or window.sources(sign, 0) < LEAST_SOURCES:
            continue
        others = healthier_half((one.share(sign) for one in siblings), LEAST_BESIDE)
        if others.whole >= LEAST_BESIDE and stands_out(own, others, floor=FLOOR):
            return Verdict(engine, part, sign, own, others)
    return _judge_length(engine, part, window, siblings)


def _judge_length(engine: str, part: Part, window: _Window, siblings: list[_Window]) -> Verdict | None:
    beside = sorted((one for one in siblings if sum(one.lengths) >= LEAST_BESIDE), key=_Window.median_bucket)
    beside = beside[: (len(beside) + 1) // 2]
    if not beside:
        return None
    usual = [sum(counts) for counts in zip(*(one.lengths for one in beside), strict=True)]
    bucket = _bucket_at(usual, LONG_QUANTILE)
    own = window.longer_than(bucket)
    if own.part < LEAST_BAD:
        return None
    others = Share(sum(usual[bucket + 1 :]), sum(usual))
    before = window.longer_before(bucket)
    if not stands_out(own, others, floor=LONG_FLOOR) or window.sources(Sign.LENGTH, bucket) < LEAST_SOURCES:
        return None
    if before.whole >= LEAST_BESIDE and not stands_out(own, before, floor=LONG_FLOOR):
        return None
    return Verdict(engine, part, Sign.LENGTH, own, others)


def _bucket_at(counts: list[int], share: float) -> int:
    """The bucket up to which ``share`` of them are; the last bounded one at most."""
    whole = sum(counts)
    for bucket, reached in enumerate(accumulate(counts)):
        if reached >= share * whole:
            return min(bucket, len(LENGTH_BOUNDS) - 1)
    return len(LENGTH_BOUNDS) - 1
