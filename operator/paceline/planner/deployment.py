"""The planner of one ModelDeployment: what it remembers, and one step of it. Whoever runs it brings the readings and
the engines, and carries the orders out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from datetime import UTC, datetime
from typing import Final

from msgspec.structs import replace

from paceline.api import labels
from paceline.api.conditions import Reason
from paceline.api.v1alpha1 import ModelDeployment
from paceline.api.v1alpha1.scaling import ScalingMode
from paceline.api.v1alpha1.status import (
    HISTORY_LENGTH,
    EngineCounts,
    ScalingDecision,
    ScalingLimit,
)
from paceline.api.wire import EngineState, Role
from paceline.errors import ConfigError
from paceline.planner.measured import EngineFact, EngineMemory
from paceline.planner.observe import LEAST_STALE_SECONDS, EnginePod, observe
from paceline.planner.patience import Patience
from paceline.planner.settings import engine_models, guessed, scaling_settings
from paceline.planner.source import Blind, Reading
from paceline.policy.lifecycle.orders import Orders
from paceline.policy.scaling.allocation import share_out
from paceline.policy.scaling.decision import Decision, Limit
from paceline.policy.scaling.observation import Counts, Observation, PolicyState
from paceline.policy.scaling.planner import plan
from paceline.policy.scaling.profiles import known_profiles
from paceline.policy.scaling.settings import EngineModels, ScalingSettings
from paceline.policy.scaling.words import plain_words

LONGEST_REASON: Final = 1024
"""Characters of a reason that the status keeps."""
WAKE_SECONDS: Final = 1.0
"""Time between two looks while a deployment sleeps: a request waits for what comes of it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one look came to."""

    observation: Observation
    decision: Decision
    blind: Blind | None
    news: ScalingDecision | None
    """What is worth a line in the history; None where nothing changes, or the same was recommended before."""
    words: tuple[str, ...]


class DeploymentPlanner:
    """Remembers what the policy remembers. ``counts``: engines by role that are asked for when it begins."""

    def __init__(self, md: ModelDeployment, counts: Mapping[Role, int], *, profile: str | None = None) -> None:
        self._profile = profile
        self._state = PolicyState()
        self._memory = EngineMemory()
        self._blind: Blind | None = None
        self._patience = Patience()
        self.counts: Mapping[Role, int] = dict(counts)
        """Engines by role that are ordered now."""
        self.gpu_limit: int | None = None
        self.orders = Orders(self.counts, keeps_roles=True)
        self.recommended: EngineCounts | None = None
        self.history: deque[ScalingDecision] = deque(maxlen=HISTORY_LENGTH)
        """Newest first."""
        self.last: Step | None = None
        self.guess_note = ""
        """What to know of how fast engines are taken to be, where nobody has measured it."""
        self.quota_note = ""
        """What became of its share of a quota last."""
        self._noted = ""
        self._missing_since: float | None = None
        self.configure(md)

    def configure(self, md: ModelDeployment, *, gpu_limit: int | None = None) -> None:
        """Take over a spec. Counts that are out of its bounds follow at once; ``gpu_limit``: share of a quota."""
        self.md = md
        self.gpu_limit = gpu_limit
        self.settings: ScalingSettings = scaling_settings(md, gpu_limit=gpu_limit)
        self.models, self._no_models = _models(md, self._profile)
        self.guess_note = _guess_note(md, self._profile)
        self.mode = md.spec.scaling.mode
        asleep = self.settings.idle_seconds is not None and not any(self.counts.values())
        if not asleep or self.mode is not ScalingMode.AUTO:
            self._order(self._bounded(self.counts))

    @property
    def interval_seconds(self) -> float:
        """Time until the next look."""
        interval = float(self.md.spec.scaling.interval_seconds)
        return min(interval, WAKE_SECONDS) if self.asleep else interval

    @property
    def window_seconds(self) -> float:
        """How much of the past a reading is to hold."""
        return self.settings.demand_window_seconds

    @property
    def asleep(self) -> bool:
        """Whether no engine is wanted."""
        return not any(self.counts.values())

    def hold(self, counts: Mapping[Role, int]) -> None:
        """Somebody else has decided on ``counts``."""
        self._order(self._bounded(counts))

    def look(self, reading: Reading, engines: Sequence[EngineFact], routers: Sequence[str], *, now: float,
             speed: float = 1.0) -> Step:  # fmt: skip
        """Observe and decide. In mode Auto :attr:`orders` are what to do from now on. Takes milliseconds to tenths of a
        second; nothing else may be called meanwhile.
        """
        seen = observe(
            reading,
            self._patience.mark((*self._memory.look(engines, now), *self._pending(engines, now)), now),
            routers,
            now=now,
            window_seconds=self.window_seconds,
            measured=self._memory.measured,
            speed=speed,
            stale_seconds=max(LEAST_STALE_SECONDS, 3.0 * self.md.spec.scaling.interval_seconds),
        )
        observation, blind = seen.observation, seen.blind
        if self.models is None:
            blind = Blind(Reason.ENGINE_MODEL_MISSING, self._no_models)
            observation = replace(observation, metrics_problem=blind.message)
        # Where nothing can be seen the policy holds, whatever the engines.
        models = self.models or EngineModels.same(next(iter(known_profiles().values())))
        before = dict(self.counts)
        decision, self._state = plan(observation, self._state, self.settings, models)
        news = None
        if blind is None:
            news = self._news(decision, before)
            if self.mode is ScalingMode.AUTO:
                self._obey(decision, observation)
            self.recommended = _as_status(decision.engines)
        elif self._blind is None or self._blind.reason is not blind.reason:
            # Roles and drains that were decided on before are older than what can be seen.
            self.orders = Orders(self._affordable(self.counts), keeps_roles=True)
        self._blind = blind
        if news is not None:
            self.history.appendleft(news)
        words = plain_words(decision)
        if blind is None and self.guess_note:
            words.append(self.guess_note)
        self.last = Step(observation, decision, blind, news, tuple(words))
        return self.last

    def _pending(self, engines: Sequence[EngineFact], now: float) -> Iterator[EnginePod]:
        """Engines that were ordered and are not there yet: nobody has made their pods, or a quota refuses them."""
        there = [one for one in engines if one.state is not EngineState.DRAINING]
        missing = sum(self.counts.values()) - len(there)
        if missing <= 0:
            self._missing_since = None
            return
        self._missing_since = now if self._missing_since is None else self._missing_since
        for number in range(missing):
            role = None
            if not self.settings.flexible:
                role = max(self.counts, key=lambda role: self.counts[role] - sum(one.role is role for one in there))
            yield EnginePod(f"pending-{number}", role, EngineState.STARTING, now - self._missing_since)

    def _obey(self, decision: Decision, seen: Observation) -> None:
        roles = self.settings.pools
        self.counts = {role: decision.engines.of(role) for role in roles}
        leaving = frozenset(drain.engine for drain in decision.drains)
        deadline = self.settings.start_deadline_seconds
        late = [one for one in seen.engines if one.state is EngineState.STARTING and one.age_seconds > deadline]
        if self._patience.tried(late, leaving, seen.now, deadline=deadline, started=self._memory.started):
            self._missing_since = None
        flips = {flip.engine: flip.after for flip in decision.flips}
        self.orders = Orders(self._affordable(self.counts), keeps_roles=True, roles=flips, leaving=leaving)

    def _order(self, counts: Mapping[Role, int]) -> None:
        self.counts = dict(counts)
        known = self.orders
        counts = self._affordable(self.counts)
        self.orders = Orders(counts, keeps_roles=True, roles=known.roles, leaving=known.leaving)

    def _affordable(self, counts: Mapping[Role, int]) -> Mapping[Role, int]:
        """What a quota leaves of ``counts`` while it does not even suffice for the minimum. The rest is waited for."""
        pools = self.settings.pools
        least = sum(pool.min_engines * pool.gpus_per_engine for pool in pools.values())
        if self.gpu_limit is None or self.settings.gpu_budget is None or self.gpu_limit >= least:
            return counts
        return share_out(counts, {role: changed(pool, min_engines=0) for role, pool in pools.items()}, self.gpu_limit)

    def _bounded(self, counts: Mapping[Role, int]) -> dict[Role, int]:
        return {
            role: min(max(counts.get(role, pool.min_engines), pool.min_engines), pool.max_engines)
            for role, pool in self.settings.pools.items()
        }

    def _news(self, decision: Decision, before: Mapping[Role, int]) -> ScalingDecision | None:
        wanted = {role: decision.engines.of(role) for role in self.settings.pools}
        if self.mode is ScalingMode.AUTO:
            if not decision.changes_something:
                return None
            resized = bool(decision.starts or decision.drains)
            old, new = (EngineCounts.by_role(before), _as_status(decision.engines)) if resized else (
                _as_status(decision.before), _as_status(decision.roles)
            )  # fmt: skip
        else:
            if wanted == dict(before) or (self.recommended == _as_status(decision.engines)):
                return None
            old, new = EngineCounts.by_role(before), _as_status(decision.engines)
        words = plain_words(decision)
        if self.quota_note != self._noted:
            words.insert(1, self.quota_note)
            self._noted = self.quota_note
        if self.mode is not ScalingMode.AUTO:
            words = [f"Recommended, not done: {words[0]}", *words[1:]]
        return ScalingDecision(
            time=datetime.fromtimestamp(decision.at, UTC).replace(microsecond=0),
            before=old,
            after=new,
            limit=limit_of(decision.explanation.bound_by),
            reason=in_one(words),
        )


def _models(md: ModelDeployment, profile: str | None) -> tuple[EngineModels | None, str]:
    """How fast engines are, or why that is not known."""
    try:
        models = engine_models(md, profile=profile)
    except ConfigError as error:
        return None, str(error)
    return models, (
        f"nothing is known of how fast {md.spec.model.name} is on its hardware; name the engine model that comes "
        f"nearest in the annotation {labels.ENGINE_PROFILE}: {', '.join(sorted(known_profiles()))}"
    )


def _guess_note(md: ModelDeployment, profile: str | None) -> str:
    """What people are told where engine models are guesses; empty where they are not."""
    basis = guessed(md, profile=profile)
    if basis is None:
        return ""
    return f"Engine speeds are a guess: {basis}. `paceline calibrate` measures them."


def limit_of(limit: Limit) -> ScalingLimit:
    """As the status names it."""
    return ScalingLimit(limit.value)


def in_one(words: Sequence[str], *, most: int = LONGEST_REASON) -> str:
    """Whole sentences as one text, as many as there is room for."""
    text = ""
    for sentence in words:
        longer = f"{text} {sentence}".strip()
        if len(longer) > most:
            return text or f"{sentence[: most - 1]}…"
        text = longer
    return text


def _as_status(counts: Counts) -> EngineCounts:
    return EngineCounts(prefill=counts.prefill, decode=counts.decode, both=counts.both)
