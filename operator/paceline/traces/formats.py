"""Trace formats by name: one call that reads, cuts out a window and sets the rate, whatever the format."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from paceline.errors import ConfigError
from paceline.traces.agents import AgentShape, generate_agents
from paceline.traces.azure import read_azure
from paceline.traces.bailian import read_bailian
from paceline.traces.burstgpt import read_burstgpt
from paceline.traces.generate import ConversationShape, generate_conversations
from paceline.traces.mooncake import read_mooncake
from paceline.traces.record import Trace
from paceline.traces.recording import is_recording, read_recording
from paceline.traces.servegen import read_servegen
from paceline.traces.sharegpt import read_sharegpt

MOONCAKE: Final = "mooncake"
RECORDING: Final = "paceline"
SERVEGEN: Final = "servegen"
READERS: Final[Mapping[str, Callable[[Path], Trace]]] = {
    MOONCAKE: read_mooncake,
    "azure": read_azure,
    "burstgpt": read_burstgpt,
    "bailian": read_bailian,
    "sharegpt": read_sharegpt,
    RECORDING: read_recording,
}
FORMATS: Final = (*READERS, SERVEGEN)
DAY_MINUTES: Final = 1440.0
"""How much is generated of ServeGen's load, which has no end, unless said otherwise."""
CONVERSATION: Final = "conversation"
AGENTS: Final = "agents"
GENERATED: Final = (CONVERSATION, AGENTS)
"""Loads for those who have no trace. Their names stand in for a file's, if there is no such file."""
GENERATED_MINUTES: Final = 60.0
"""How much is generated of those, unless said otherwise."""


def read_trace(
    path: Path,
    kind: str | None,
    *,
    start_minute: float = 0.0,
    minutes: float | None = None,
    generated_rate: float = 1.0,
    seed: int = 0,
) -> Trace:
    """Read ``minutes`` of a trace, from ``start_minute`` on; all of it without ``minutes``. Names in ``GENERATED`` are
    generated, whatever the format. Without ``kind`` a recording of Paceline's own is known by its first row, and
    everything else is Mooncake's.

    ``generated_rate`` and ``seed`` are for what describes a load instead of listing it.
    Raises TraceError for a file that can't be read, ConfigError for an unknown format or an empty window.
    """
    rng = random.Random(seed)  # noqa: S311 - reproducible, not secret
    if str(path) in GENERATED and not path.exists():
        load = 60 * (GENERATED_MINUTES if minutes is None else minutes)
        trace = _generate(str(path), 60 * start_minute + load, generated_rate, rng)
        return trace.window(start_seconds=60 * start_minute, seconds=load) if start_minute else trace
    if kind is None:
        kind = RECORDING if is_recording(path) else MOONCAKE
    if kind == SERVEGEN:
        return read_servegen(path).generate(
            start_seconds=60 * start_minute,
            seconds=60 * (DAY_MINUTES if minutes is None else minutes),
            rate_scale=generated_rate,
            rng=rng,
        )
    if kind not in READERS:
        raise ConfigError(f"trace format {kind!r} is not known. Known formats: {', '.join(FORMATS)}.")
    trace = READERS[kind](path)
    if minutes is None and not start_minute:
        return trace
    end = trace.requests[-1].arrival_seconds
    seconds = end if minutes is None else 60 * minutes
    return trace.window(start_seconds=60 * start_minute, seconds=seconds)


def _generate(name: str, seconds: float, rate: float, rng: random.Random) -> Trace:
    if name == AGENTS:
        agents = AgentShape()
        agents = replace(agents, requests_per_second=rate * agents.requests_per_second)
        return generate_agents(agents, seconds=seconds, rng=rng)
    chats = ConversationShape()
    chats = replace(chats, requests_per_second=rate * chats.requests_per_second)
    return generate_conversations(chats, seconds=seconds, rng=rng)
