"""Takes engines that stand out out of rotation, and lets them back. Runs once a second, beside the path of requests."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from paceline.api.wire import OutputHealth as Settings
from paceline.api.wire import Role, WatchMode
from paceline.policy.health.output import OutputHealth, Verdict
from paceline.policy.health.pace import Pace
from paceline.policy.health.quarantine import Quarantine, Stay
from paceline.policy.health.signs import Sign
from paceline_worker.router.fleet import Engine, Fleet
from paceline_worker.router.metrics import Sample
from paceline_worker.router.wellness.listening import Listening

SLOW: Final = "slow"
"""Reason of engines that are too slow; others are the names of signs."""
REASONS: Final = (*(str(sign) for sign in Sign), SLOW)
NOTHING: Final = "none"
"""Label of engines that don't stand out."""
OUTCOMES: Final = ("out", "spared", "watched")

log = logging.getLogger(__name__)


class Rotation:
    """Who gets work, as far as that depends on what engines say."""

    def __init__(self, settings: Settings, fleet: Fleet, listening: Listening) -> None:
        self._settings = settings
        self._fleet = fleet
        self._listening = listening
        self._health: OutputHealth = listening.health
        self._pace: Pace = listening.pace
        self._quarantine = Quarantine(max_out_percent=settings.max_out_percent, first_seconds=settings.hold_seconds)
        self._verdicts: dict[str, Verdict] = {}
        """Those by which engines are out."""
        self.counts = {(reason, outcome): 0 for reason in REASONS for outcome in OUTCOMES}
        """Engines that stood out, by reason and what followed."""

    def tick(self, now: float) -> None:
        """Look at what was heard since the last time. ``now``: by the listeners' clock."""
        engines = {engine.identity: engine for engine in self._fleet}
        for part in (self._health, self._pace, self._quarantine):
            part.keep(engines)
        self._let_back(engines, now)
        if self._settings.mode is not WatchMode.OFF:
            again = self._quarantine.suspects(now)
            for verdict in self._health.verdicts(now, out=self._quarantine.stays, again=again):
                if self._take_out(engines, verdict.engine, verdict.sign, verdict.words, self._settings.mode, now):
                    self._verdicts[verdict.engine] = verdict
        if self._settings.slow_engines is not WatchMode.OFF:
            for slow in self._pace.slow(now, out=self._quarantine.stays):
                self._take_out(engines, slow.engine, SLOW, slow.words, self._settings.slow_engines, now)

    def gauges(self) -> Iterator[Sample]:
        """For the metrics page."""
        yield "output_answers_watched", "Answers that engines are compared by.", {}, len(self._health)
        bad: Counter[tuple[str, str]] = Counter()
        for identity, _, seen, times in self._health.bad():
            bad[identity, seen] += times
        for engine in self._fleet:
            for sign in Sign:
                if sign is not Sign.LENGTH:
                    labels = {"engine": engine.name, "sign": str(sign)}
                    text = "Of an engine's last answers, those with a sign of not being well."
                    yield "engine_output_signs", text, labels, bad[engine.identity, sign]
            stay = self._quarantine.stays.get(engine.identity)
            labels = {"engine": engine.name, "reason": NOTHING if stay is None else stay.reason}
            text = (
                "1: gets no new work, because it stands out; 0 with a reason: stands out, and gets work all the same."
            )
            yield "engine_suspended", text, labels, int(engine.suspended is not None)

    def totals(self) -> Iterator[Sample]:
        """Counters for the metrics page."""
        yield "output_answers", "Answers that were looked at.", {}, self._listening.answers
        for sign, count in self._listening.signs.items():
            yield "output_signs", "Answers that bore a sign of not being well.", {"sign": sign}, count
        for (reason, outcome), count in self.counts.items():
            labels = {"reason": reason, "outcome": outcome}
            yield "engine_suspensions", "Times that an engine stood out.", labels, count

    def _let_back(self, engines: Mapping[str, Engine], now: float) -> None:
        for identity, stay in list(self._quarantine.stays.items()):
            verdict = self._verdicts.get(identity)
            if verdict is not None and self._health.alike(verdict, stay.since):
                self._quarantine.excuse(identity, now)
                self._back(engines[identity], stay, "those that took its work show the same: it is not the engine")
        for stay in self._quarantine.due(now):
            self._back(engines[stay.engine], stay, "it is to be seen again")
        for roles in ((Role.DECODE, Role.BOTH), (Role.PREFILL, Role.BOTH)):
            serving = [engine for engine in self._fleet if engine.serves and engine.endpoint.role in roles]
            if serving and not any(engine.usable for engine in serving):
                for stay in self._quarantine.need([engine.identity for engine in serving], now):
                    self._back(engines[stay.engine], stay, "no other engine of its role is left")

    def _take_out(
        self, engines: Mapping[str, Engine], identity: str, reason: str, words: str, mode: WatchMode, now: float
    ) -> bool:
        engine = engines.get(identity)
        if engine is None:
            return False
        stay = self._quarantine.take_out(
            identity, reason, words, now,
            act=mode is WatchMode.ACT, engines=len(engines), others=self._others(engine),
        )  # fmt: skip
        if stay is None:
            return False
        outcome = "out" if stay.out else ("watched" if mode is WatchMode.WATCH else "spared")
        self.counts[reason, outcome] += 1
        self._forget(identity)
        if stay.out:
            log.warning("engine %s gets no more work for %.0f s: %s", engine.name, stay.until - now, words)
            self._fleet.suspend(engine, reason)
        else:
            why = "the mode is Watch" if mode is WatchMode.WATCH else "too few others would be left"
            log.warning("engine %s stands out and stays, because %s: %s", engine.name, why, words)
        return True

    def _others(self, engine: Engine) -> Iterator[int]:
        """Usable engines beside it, by what it is needed for."""
        role = engine.endpoint.role
        beside = [other.endpoint.role for other in self._fleet if other is not engine and other.usable]
        if role is not Role.PREFILL:
            yield sum(other is not Role.PREFILL for other in beside)
        if role is not Role.DECODE:
            yield sum(other is not Role.DECODE for other in beside)

    def _back(self, engine: Engine, stay: Stay, why: str) -> None:
        self._forget(stay.engine)
        self._verdicts.pop(stay.engine, None)
        if stay.out:
            log.info("engine %s gets work again (it was out for %s): %s", engine.name, stay.reason, why)
            self._fleet.suspend(engine, None)

    def _forget(self, identity: str) -> None:
        self._health.forget(identity)
        self._pace.forget(identity)
