"""What can be done with a recording: decide again on the same observations, and make a trace of what arrived.

The same observations with the same settings give the same decisions; with others they show what a change would have
made, as far as the past can tell. The trace goes further: ``paceline simulate`` serves it with whatever engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from paceline.errors import ConfigError
from paceline.planner.recorder import Begun, Line, Taken, settings_of
from paceline.policy.scaling.decision import Decision
from paceline.policy.scaling.demand import arrivals
from paceline.policy.scaling.observation import Observation, OutputBucket, PolicyState
from paceline.policy.scaling.output_model import OutputModel, remember
from paceline.policy.scaling.perfmodel import EngineProfile
from paceline.policy.scaling.planner import plan
from paceline.policy.scaling.profiles import known_profiles
from paceline.policy.scaling.settings import EngineModels, ScalingSettings
from paceline.traces.record import Trace, TraceRequest, in_order

BLOCK_SIZE: Final = 64
"""Tokens of a block of the traces made here."""


@dataclass(frozen=True, slots=True)
class Again:
    """A decision, and the one that was recorded."""

    observation: Observation
    recorded: Decision
    decided: Decision


def decide_again(lines: Sequence[Line], settings: ScalingSettings | None = None) -> Iterator[Again]:
    """Decide on every observation anew, with ``settings`` or with those of the recording.

    Raises ConfigError for a recording that does not begin with its settings.
    """
    models: EngineModels | None = None
    own: ScalingSettings | None = None
    state = PolicyState()
    for line in lines:
        if isinstance(line, Begun):
            own = settings_of(line)
            models = line.models
            continue
        if own is None:
            raise ConfigError("the recording does not begin with the settings that it was made with.")
        known = models or EngineModels.same(next(iter(known_profiles().values())))
        decision, state = plan(line.observation, state, settings or own, known)
        yield Again(line.observation, line.decision, decision)


def trace_of(lines: Sequence[Line], name: str) -> Trace:
    """What arrived, request by request. Raises ConfigError when nothing did.

    Histograms know sizes, not prompts: what was expected in a cache becomes a prefix that all requests share, and
    answers have the mean length of those with prompts like theirs.
    """
    profile: EngineProfile = next(iter(known_profiles().values()))
    requests: list[TraceRequest] = []
    buckets: tuple[OutputBucket, ...] = ()
    learned: float | None = None
    begin: float | None = None
    unique = 1 << 32
    end = float("-inf")
    for line in lines:
        if not isinstance(line, Taken) or not line.observation.arrivals:
            continue
        observation = line.observation
        until = observation.arrivals[-1].end
        buckets, learned = remember(buckets, observation.completions, after=learned, until=until), until
        model = OutputModel.of(buckets)
        for interval in observation.arrivals:
            if interval.start < end:
                continue
            begin = interval.start if begin is None else begin
            end = interval.end
            alone = Observation(now=interval.end, arrivals=(interval,))
            for one in arrivals(alone, profile, model):
                blocks = -(-one.prompt // BLOCK_SIZE)
                shared = min(one.cached // BLOCK_SIZE, max(0, blocks - 1))
                unique += blocks
                requests.append(
                    TraceRequest(
                        arrival_seconds=one.seconds - begin,
                        input_tokens=max(1, one.prompt),
                        output_tokens=max(1, round(one.output)),
                        blocks=(*range(shared), *range(unique - blocks + shared, unique)),
                        block_size=BLOCK_SIZE,
                    )
                )
    if not requests:
        raise ConfigError(f"{name}: no request arrived while it was recorded.")
    return Trace(name, in_order(requests))
