"""Which requests a load consists of: ``conversation``, ``agents`` and ``shift`` generate them, ``mooncake:FILE`` reads
a trace. Called by ``up``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from paceline.errors import ConfigError
from paceline.traces.agents import AgentShape, generate_agents
from paceline.traces.generate import ConversationShape, generate_conversations
from paceline.traces.mooncake import read_mooncake
from paceline.traces.record import Trace
from paceline.traces.shift import generate_shift

KINDS: Final = "conversation, agents, shift or mooncake:FILE"
CPU_REQUESTS_PER_SECOND: Final = 0.5
"""Rate of the generated load on real engines: ``up`` runs them on the CPUs of this machine."""


@dataclass(frozen=True, slots=True)
class LoadChoice:
    """What the user asked for."""

    kind: str
    minutes: float = 2.0
    """Of the trace; its arrivals are compressed by ``rate_scale`` afterwards."""
    start_minute: float = 0.0
    rate_scale: float = 1.0
    seed: int = 0
    spread_ticks: bool = False
    """Spread requests that a trace gives one arrival time until its next one."""


@dataclass(frozen=True, slots=True)
class ChosenLoad:
    """The requests to send."""

    trace: Trace
    title: str
    left_out: int
    """Requests too long for the model."""


def choose_load(choice: LoadChoice, *, max_model_len: int | None, real_engines: bool) -> ChosenLoad:
    """Read or generate the load.

    Raises ConfigError for an unknown kind, an empty window or a model too short for any of it, TraceError for a bad
    file.
    """
    seconds = choice.minutes * 60
    kind, separator, file = choice.kind.partition(":")
    if choice.kind == "conversation":
        shape = ConversationShape()
        if real_engines:
            shape = replace(shape, requests_per_second=CPU_REQUESTS_PER_SECOND)
        if max_model_len is not None:
            shape = shape.fitted(max_model_len)
        rng = random.Random(choice.seed)  # noqa: S311 - a load, not a secret
        trace = generate_conversations(shape, seconds=seconds, rng=rng)
        title = f"generated conversations, seed {choice.seed}"
    elif choice.kind == "agents":
        agents = AgentShape()
        if real_engines:
            agents = replace(agents, requests_per_second=CPU_REQUESTS_PER_SECOND)
        if max_model_len is not None:
            agents = agents.fitted(max_model_len)
        rng = random.Random(choice.seed)  # noqa: S311 - a load, not a secret
        trace = generate_agents(agents, seconds=seconds, rng=rng)
        title = f"generated agents, seed {choice.seed}"
    elif choice.kind == "shift":
        trace = generate_shift(seconds=seconds, rng=random.Random(choice.seed))  # noqa: S311 - a load, not a secret
        title = f"{trace.name}, seed {choice.seed}"
    elif kind == "mooncake" and separator and file:
        window = read_mooncake(Path(file)).window(start_seconds=choice.start_minute * 60, seconds=seconds)
        trace = window.spread_ticks() if choice.spread_ticks else window
        title = f"{window.name}, minutes {choice.start_minute:g} to {choice.start_minute + choice.minutes:g}"
        title += ", ticks spread" if choice.spread_ticks else ""
    else:
        raise ConfigError(f"--load: {choice.kind!r} is not a load; use {KINDS}.")
    if choice.rate_scale != 1:
        trace = trace.at_rate(choice.rate_scale)
        title += f" at {choice.rate_scale:g}x its rate"
    left_out = 0
    if max_model_len is not None:
        trace, left_out = trace.fitting(max_model_len)
        if not trace.requests:
            raise ConfigError(f"--load: all {left_out} requests are longer than the model's {max_model_len} tokens.")
    return ChosenLoad(trace, title, left_out)
