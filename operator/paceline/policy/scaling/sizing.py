"""What one decision is built on: needs, what is allowed of them, and what was needed before.

Made by the planner, read by the steps that turn it into flips, starts, drains and words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paceline.api.wire import Role
from paceline.policy.scaling.hindsight import Hindsight
from paceline.policy.scaling.needs import Need
from paceline.policy.scaling.observation import Counts, EngineLoad, Observation, Want
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.settings import ScalingSettings


@dataclass(frozen=True, slots=True)
class Sizing:
    """Needs of both horizons, by role."""

    observation: Observation
    settings: ScalingSettings
    near: Mapping[Role, Need]
    far: Mapping[Role, Need]
    near_wanted: Mapping[Role, int]
    """Near needs within the bounds of each role, with what waits already."""
    near_steady: Mapping[Role, int]
    """The same without what waits for a prefill engine."""
    near_running: int
    """Decode engines that what runs already needs."""
    bounded: Mapping[Role, int]
    """Far needs as far as they are confirmed, and near ones that last, within the bounds of each role."""
    unconfirmed: int
    """Engines that this look foresees to be needed and those before did not."""
    hindsight: Hindsight
    wanted: Mapping[Role, int]
    """What is left without the prefill engines that hindsight spares."""
    allowed: Mapping[Role, int]
    """What the GPU budget leaves of that."""
    wants: Sequence[Want]
    """Those of past decisions and, last, this one."""
    donor_seconds: float
    """For how long decode must have had more engines than it needs before it gives one up."""
    indebted: bool
    """Whether jumps of the load have cost more misses than are planned for, and the next one is not paid for yet."""
    plenty: int | None
    """Engines that would have served nearly all requests of late in time; None: not known."""
    losses: Mapping[str, float]
    """By engine: engine seconds that it would lose if it stopped what it does."""


def to_lose(engine: EngineLoad, profile: EngineProfile, output_tokens: float, itl_seconds: float) -> float:
    """Engine seconds that are lost, or waited for, when this engine stops what it does."""
    running = engine.running * output_tokens / 2 * itl_seconds / profile.max_seqs
    return engine.waiting_seconds + running + engine.reusable_tokens * profile.prefill_token


def as_counts(engines: Mapping[Role, int]) -> Counts:
    """A mapping by role as a value that is recorded."""
    return Counts(
        prefill=engines.get(Role.PREFILL, 0), decode=engines.get(Role.DECODE, 0), both=engines.get(Role.BOTH, 0)
    )
