"""The load that an engine reports: two gauges out of its metrics page, found without parsing the rest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

RUNNING: Final = b"vllm:num_requests_running"
WAITING: Final = b"vllm:num_requests_waiting"
KV_USAGE: Final = b"vllm:kv_cache_usage_perc"
ADAPTERS: Final = re.compile(
    rb'^vllm:lora_requests_info\{[^\n]*\brunning_lora_adapters="([^"\n]*)"[^\n]*\} (\S+)', re.MULTILINE
)
MAX_ADAPTERS: Final = 1024


@dataclass(frozen=True, slots=True)
class Load:
    """One look at an engine's gauges; data-parallel ranks are added up, their KV use is averaged."""

    requests: int
    kv_usage: float
    adapters: frozenset[str] | None = None
    """LoRA adapters at work; None when the engine has none."""


def read_load(page: bytes) -> Load | None:
    """Load from a Prometheus text page; None when the gauges aren't there or aren't numbers."""
    running, waiting, usage = _values(page, RUNNING), _values(page, WAITING), _values(page, KV_USAGE)
    if not running or not waiting:
        return None
    total = sum(running) + sum(waiting)
    mean_usage = sum(usage) / len(usage) if usage else 0.0
    if not (0 <= total < float("inf") and 0 <= mean_usage < float("inf")):
        return None
    return Load(int(total), min(1.0, mean_usage), _adapters(page))


def _adapters(page: bytes) -> frozenset[str] | None:
    """Of the newest sample: each set of adapters has a sample of its own, whose value is the time it was seen."""
    found = [(stamp, names) for names, stamp in ADAPTERS.findall(page)]
    if not found:
        return None
    try:
        _, names = max(found, key=lambda one: float(one[0]))
    except ValueError:
        return None
    return frozenset(names.decode("utf-8", "replace").split(",")[:MAX_ADAPTERS]) - {""}


def _values(page: bytes, name: bytes) -> list[float]:
    """Values of all samples of a metric, whatever their labels."""
    values = []
    at = page.find(name)
    while at >= 0:
        end = page.find(b"\n", at)
        line = page[at : end if end >= 0 else len(page)]
        after = line[len(name) : len(name) + 1]
        if (at == 0 or page[at - 1 : at] == b"\n") and after in (b"{", b" "):
            try:
                values.append(float(line.rpartition(b"}")[2].split()[0] if after == b"{" else line.split()[1]))
            except (ValueError, IndexError):
                return []
        at = page.find(name, at + len(line))
    return values
