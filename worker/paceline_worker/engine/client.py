"""What the worker asks its own engine over HTTP: is it healthy, what is in flight, can it complete a prompt. Called by
``health``, ``warmup``, ``drain`` and ``admin``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

import aiohttp

from paceline.api import wire
from paceline.errors import EngineError
from paceline_worker.http.tls import AUTHORITY, CERTIFICATE, KEY, Renewed, client_files

HEALTH_TIMEOUT_SECONDS: Final = 5.0
METRICS_TIMEOUT_SECONDS: Final = 5.0
RUNNING: Final = "vllm:num_requests_running"
WAITING: Final = "vllm:num_requests_waiting"
CACHE_USE: Final = "vllm:kv_cache_usage_perc"
MOVING: Final = (
    RUNNING,
    WAITING,
    CACHE_USE,
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
    "vllm:iteration_tokens_total_count",
    "vllm:num_preemptions_total",
)
"""Of these one changes with every step that does something."""
WARMUP_PROMPT: Final = "Count: one, two, three,"
WARMUP_TOKENS: Final = 4
ANSWER_LIMIT: Final = 300
"""Characters of an unexpected answer that a message shows."""


class Health(Enum):
    """Outcome of one health check."""

    GOOD = auto()
    BAD = auto()
    """An answer, and not 200: vLLM says so when its engine core is dead."""
    SILENT = auto()


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine is busy with, summed over its data-parallel ranks."""

    running: int
    waiting: int
    cache_use: float
    """Largest share (0-1) of a rank's KV blocks that are held, by requests or for a decode engine to fetch."""

    @property
    def in_flight(self) -> int:
        """Requests that a client still waits for."""
        return self.running + self.waiting


@dataclass(frozen=True, slots=True)
class Work:
    """What moves while an engine works. Equal twice: nothing has happened in between."""

    running: int
    seen: tuple[float, ...]
    """Sums over its data-parallel ranks, in the order of MOVING."""


class EngineClient:
    """HTTP client of one engine's API. Close it with :meth:`close`."""

    __slots__ = ("_model", "_session", "_tls")

    def __init__(self, authority: str, model: str, tls: wire.EngineTls | None = None) -> None:
        """``authority``: host and port. Raises ConfigError for certificates that can't be used."""
        self._tls = None if tls is None else (_own_certificates(Path(tls.folder)), tls.server_name)
        self._session = aiohttp.ClientSession(f"{'http' if tls is None else 'https'}://{authority}")
        self._model = model

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()

    async def health(self) -> Health:
        """What ``/health`` says."""
        timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_SECONDS)
        try:
            async with self._session.get("/health", timeout=timeout, **self._secure()) as answer:
                return Health.GOOD if answer.status == 200 else Health.BAD
        except (aiohttp.ClientError, TimeoutError):
            return Health.SILENT

    async def load(self) -> Load | None:
        """What is in flight; None when the engine does not answer in time."""
        page = await self._metrics()
        return None if page is None else parse_load(page)

    async def work(self) -> Work | None:
        """What moves while it works; None when the engine does not answer in time."""
        page = await self._metrics()
        return None if page is None else parse_work(page)

    async def _metrics(self) -> str | None:
        timeout = aiohttp.ClientTimeout(total=METRICS_TIMEOUT_SECONDS)
        try:
            async with self._session.get("/metrics", timeout=timeout, **self._secure()) as answer:
                return await answer.text() if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError):
            return None

    async def warm_up(self, timeout_seconds: float) -> None:
        """Have a few real tokens made. Raises EngineError when they don't come."""
        body = {"model": self._model, "prompt": WARMUP_PROMPT, "max_tokens": WARMUP_TOKENS, "temperature": 0}
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        try:
            async with self._session.post("/v1/completions", json=body, timeout=timeout, **self._secure()) as answer:
                text = await answer.text()
        except TimeoutError:
            raise EngineError(f"The warm-up request had no answer within {timeout_seconds:.0f} s.") from None
        except aiohttp.ClientError as error:
            raise EngineError(f"The warm-up request failed: {str(error) or type(error).__name__}.") from None
        if answer.status != 200:
            raise EngineError(f"The warm-up request was answered {answer.status}: {text[:ANSWER_LIMIT]}")
        if not _has_tokens(text):
            raise EngineError(f"The warm-up request was answered without tokens: {text[:ANSWER_LIMIT]}")

    def _secure(self) -> dict[str, Any]:
        if self._tls is None:
            return {}
        contexts, name = self._tls
        return {"ssl": contexts.get(), "server_hostname": name}


def _own_certificates(folder: Path) -> Renewed:
    """A worker shows its engine the engine's own certificate."""
    return client_files(folder / AUTHORITY, (folder / CERTIFICATE, folder / KEY))


def _has_tokens(text: str) -> bool:
    try:
        document = json.loads(text)
    except ValueError:
        return False
    usage = document.get("usage") if isinstance(document, dict) else None
    made = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return isinstance(made, int) and made > 0


def parse_load(text: str) -> Load | None:
    """Read the gauges from an engine's metrics in Prometheus' text format; None where they are not there."""
    samples = list(_samples(text, (RUNNING, WAITING, CACHE_USE)))
    if not any(name == RUNNING for name, _ in samples):
        return None
    return Load(
        running=int(sum(value for name, value in samples if name == RUNNING)),
        waiting=int(sum(value for name, value in samples if name == WAITING)),
        cache_use=max((value for name, value in samples if name == CACHE_USE), default=0.0),
    )


def parse_work(text: str) -> Work | None:
    """Read what moves from an engine's metrics in Prometheus' text format; None where it does not say what it runs."""
    sums: dict[str, float] = {}
    for name, value in _samples(text, MOVING):
        sums[name] = sums.get(name, 0.0) + value
    if RUNNING not in sums:
        return None
    return Work(running=int(sums[RUNNING]), seen=tuple(sums.get(name, 0.0) for name in MOVING))


def _samples(text: str, names: tuple[str, ...]) -> Iterable[tuple[str, float]]:
    for line in text.splitlines():
        if line.startswith(names):
            name = line.partition("{")[0].partition(" ")[0]
            if name in names:
                try:
                    yield name, float(line.rpartition(" ")[2])
                except ValueError:
                    continue
