"""Fitting an engine while it serves: its own metrics, read again and again, and nothing sent to it.

An interval teaches something if the engine only decoded in it, with about the same batch all the while, or computed one
prompt alone; everything else is left out, and so are outliers (:mod:`paceline.policy.scaling.online`). So it takes an
engine that is not busy all the time, a wide range of loads, and minutes.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from paceline.errors import EngineError
from paceline.planning.endpoint import kv_capacity
from paceline.policy.scaling.online import EngineInterval, OnlineFit, OnlineModel
from paceline.policy.scaling.perfmodel import EngineProfile

INTERVAL_SECONDS: Final = 0.5
"""Between two looks: short enough to catch single prompts."""
TIMEOUT_SECONDS: Final = 10.0
LOST_LOOKS: Final = 10
"""Looks in a row that may fail before the engine is given up."""

RUNNING: Final = "vllm:num_requests_running"
KV_USAGE: Final = "vllm:kv_cache_usage_perc"
PROMPTS: Final = "vllm:prompt_tokens_total"
HITS: Final = "vllm:prefix_cache_hits_total"
GENERATED: Final = "vllm:generation_tokens_total"
ITL: Final = "vllm:inter_token_latency_seconds"
PREFILL: Final = "vllm:request_prefill_time_seconds"
_NEEDED: Final = (
    RUNNING, KV_USAGE, PROMPTS, GENERATED, f"{ITL}_sum", f"{ITL}_count", f"{PREFILL}_sum", f"{PREFILL}_count",
)  # fmt: skip

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Watched:
    """What came of it."""

    fitted: OnlineModel
    seconds: float
    """That it was watched for."""
    looks: int
    """That succeeded."""
    points: int
    """Intervals that taught something and are kept."""


@dataclass(frozen=True, slots=True)
class Page:
    """The metrics of one engine at one moment."""

    samples: Mapping[str, float]
    kv_capacity_tokens: int | None = None
    """None if it doesn't say."""


async def watch(
    url: str,
    start: EngineProfile,
    *,
    seconds: float,
    kv_capacity_tokens: int | None = None,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
    progress: Progress,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Watched:
    """Watch an engine for so long.

    ``start`` is what is known of it; ``kv_capacity_tokens`` goes before what it says itself.

    Raises EngineError for an engine that can't be reached, has not vLLM's metrics, or has several data-parallel ranks,
    whose batches its metrics don't tell apart.
    """
    fit, looks, lost = OnlineFit(start), 0, 0
    before: Page | None = None
    began = clock()
    async with httpx.AsyncClient(
        base_url=url.rstrip("/").removesuffix("/v1"), timeout=TIMEOUT_SECONDS, transport=transport, trust_env=False
    ) as http:
        while (passed := clock() - began) < seconds:
            progress(f"{fit.size} intervals that tell something", passed / seconds)
            try:
                answer = await http.get("/metrics")
                answer.raise_for_status()
            except httpx.HTTPError as error:
                lost, before = lost + 1, None
                why = str(error) or type(error).__name__
                if lost >= LOST_LOOKS or not looks:
                    raise EngineError(f"--endpoint {url}: {why}.") from None
                progress(f"no answer, {lost} of {LOST_LOOKS} times in a row: {why}", passed / seconds)
            else:
                lost, looks = 0, looks + 1
                page = read_page(answer.text, url)
                if looks == 1:
                    room = kv_capacity_tokens or page.kv_capacity_tokens or start.kv_capacity_tokens
                    start = replace(start, kv_capacity_tokens=room)
                    fit = OnlineFit(start)
                if before is not None:
                    interval = between(before, page, kv_capacity_tokens=start.kv_capacity_tokens)
                    if interval is not None:
                        fit.observe(interval)
                before = page
            await sleep(INTERVAL_SECONDS)
    return Watched(fit.model(), clock() - began, looks, fit.size)


def served_profile(watched: Watched, *, name: str, endpoint: str) -> EngineProfile:
    """The profile to write. It remains an estimate where one of the two models could not be fitted.

    Raises EngineError where neither could: nothing was learned then.
    """
    fitted = watched.fitted
    if not (fitted.prefill.fitted or fitted.step.fitted):
        raise EngineError(
            f"--endpoint {endpoint}: {watched.looks} looks in {watched.seconds:.0f} s were not enough for a fit "
            f"({fitted.prefill.reason}; {fitted.step.reason}). Watch for longer, under a load that varies and leaves "
            "the engine idle now and then; or measure an idle engine, without --serving."
        )
    complete = fitted.prefill.fitted and fitted.step.fitted
    said = f"fitted to its own metrics while it served, {watched.seconds:.0f} s"
    rest = "" if complete else f"; the rest is that of {fitted.profile.name}: {fitted.profile.provenance}"
    return replace(fitted.profile, name=name, estimate=not complete, provenance=said + rest)


def read_page(text: str, url: str) -> Page:
    """What is needed of one page. Raises EngineError."""
    samples: dict[str, float] = {}
    ranks: set[str] = set()
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in _NEEDED or sample.name == HITS:
                    ranks.add(sample.labels.get("engine", "0"))
                    samples[sample.name] = samples.get(sample.name, 0.0) + sample.value
    except ValueError as error:
        raise EngineError(f"--endpoint {url}: its /metrics can't be read: {error}.") from None
    missing = [name for name in _NEEDED if name not in samples]
    if missing:
        raise EngineError(f"--endpoint {url}: its /metrics has no {missing[0]}; give an engine of vLLM, not a router.")
    if len(ranks) > 1:
        raise EngineError(
            f"--endpoint {url}: {len(ranks)} data-parallel ranks, whose batches its metrics don't tell apart. Measure "
            "an engine of one rank."
        )
    return Page(samples, kv_capacity(text))


def between(before: Page, after: Page, *, kv_capacity_tokens: int) -> EngineInterval | None:
    """What happened between two looks; None if a counter went back, as it does when an engine starts anew."""

    def grown(name: str) -> float:
        return after.samples.get(name, 0.0) - before.samples.get(name, 0.0)

    counters = (PROMPTS, HITS, GENERATED, f"{ITL}_sum", f"{ITL}_count", f"{PREFILL}_sum", f"{PREFILL}_count")
    if any(grown(name) < 0 or not math.isfinite(grown(name)) for name in counters):
        return None
    usage = (before.samples[KV_USAGE] + after.samples[KV_USAGE]) / 2
    hits = min(grown(HITS), grown(PROMPTS))
    return EngineInterval(
        running=(before.samples[RUNNING] + after.samples[RUNNING]) / 2,
        running_change=abs(grown(RUNNING)),
        context_tokens=usage * kv_capacity_tokens,
        prompt_tokens=grown(PROMPTS) - hits,
        cached_tokens=hits,
        generated_tokens=grown(GENERATED),
        inter_token_count=grown(f"{ITL}_count"),
        inter_token_seconds=grown(f"{ITL}_sum"),
        prefills=grown(f"{PREFILL}_count"),
        prefill_seconds=grown(f"{PREFILL}_sum"),
    )
