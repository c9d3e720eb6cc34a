"""Trace formats by name: one call that reads, cuts out a window and sets the rate, whatever the format."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from paceline.errors import ConfigError
from paceline.traces.azure import read_azure
from paceline.traces.bailian import read_bailian
from paceline.traces.burstgpt import read_burstgpt
from paceline.traces.mooncake import read_mooncake
from paceline.traces.record import Trace
from paceline.traces.recording import read_recording
from paceline.traces.servegen import read_servegen
from paceline.traces.sharegpt import read_sharegpt

SERVEGEN: Final = "servegen"
READERS: Final[Mapping[str, Callable[[Path], Trace]]] = {
    "mooncake": read_mooncake,
    "azure": read_azure,
    "burstgpt": read_burstgpt,
    "bailian": read_bailian,
    "sharegpt": read_sharegpt,
    "paceline": read_recording,
}
FORMATS: Final = (*READERS, SERVEGEN)
DAY_MINUTES: Final = 1440.0
"""How much is generated of a load that has no end, unless said otherwise."""


def read_trace(
    path: Path,
    kind: str,
    *,
    start_minute: float = 0.0,
    minutes: float | None = None,
    generated_rate: float = 1.0,
    seed: int = 0,
) -> Trace:
    """Read ``minutes`` of a trace, from ``start_minute`` on; all of it without ``minutes``.

    ``generated_rate`` and ``seed`` are for formats that describe a load instead of listing it (ServeGen).
    Raises TraceError for a file that can't be read, ConfigError for an unknown format or an empty window.
    """
    if kind == SERVEGEN:
        return read_servegen(path).generate(
            start_seconds=60 * start_minute,
            seconds=60 * (DAY_MINUTES if minutes is None else minutes),
            rate_scale=generated_rate,
            rng=random.Random(seed),  # noqa: S311 - reproducible, not secret
        )
    if kind not in READERS:
        raise ConfigError(f"trace format {kind!r} is not known. Known formats: {', '.join(FORMATS)}.")
    trace = READERS[kind](path)
    if minutes is None and not start_minute:
        return trace
    end = trace.requests[-1].arrival_seconds
    seconds = end if minutes is None else 60 * minutes
    return trace.window(start_seconds=60 * start_minute, seconds=seconds)
