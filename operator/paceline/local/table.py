"""The page that ``paceline up`` shows: engines while they start, engines and objective while they serve.

Pure rendering of samples with rich; :mod:`paceline.local.up` decides when. Times are the engines' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from paceline.api.v1alpha1 import Objective
from paceline.api.wire import Role
from paceline.local.cluster import LocalCluster
from paceline.local.kubelet import PodPhase, PodStatus
from paceline.local.monitor import EngineSample, Sample
from paceline.local.scrape import Histogram, RouterMetrics

WINDOW_SECONDS: Final = 30.0
"""Latencies and rates on the page are those of this last stretch of wall time."""
_PHASE_STYLE: Final = {
    PodPhase.READY: "green",
    PodPhase.STARTING: "yellow",
    PodPhase.WAITING: "yellow",
    PodPhase.FAILED: "red",
    PodPhase.STOPPED: "dim",
}
NOTHING: Final = "–"


def starting_page(cluster: LocalCluster, elapsed: float) -> RenderableType:
    """What each pod waits for."""
    table = Table(box=None, pad_edge=False)
    for column in ("pod", "state", "waits for"):
        table.add_column(column)
    for status in _pods(cluster):
        table.add_row(status.name, _phase(status.phase), Text(_waits_for(status), overflow="ellipsis", no_wrap=True))
    return Group(Text(f"starting, {elapsed:.0f} s", style="bold"), table)


def starting_line(cluster: LocalCluster, elapsed: float) -> str:
    """The same in one line, for output that is no terminal."""
    pods = _pods(cluster)
    ready = sum(status.phase is PodPhase.READY for status in pods)
    waiting = "; ".join(f"{p.name}: {_waits_for(p)}" for p in pods if p.phase is not PodPhase.READY)
    return f"{elapsed:5.1f} s  {ready} of {len(pods)} pods ready" + (f"  ({waiting})" if waiting else "")


def serving_page(samples: Sequence[Sample], objective: Objective, speed: float, headline: str) -> RenderableType:
    """Engines and objective. Needs at least one sample."""
    sample, before = samples[-1], window_start(samples)
    table = Table(box=None, pad_edge=False)
    table.add_column("engine")
    table.add_column("role")
    table.add_column("state")
    for column in ("running", "waiting", "KV use", "hit rate", "tokens/s"):
        table.add_column(column, justify="right")
    earlier = {engine.name: engine for engine in before.engines}
    seconds = (sample.at - before.at) * speed
    for engine in sample.engines:
        table.add_row(*_engine_row(engine, earlier.get(engine.name), seconds))
    return Group(Text(headline, style="bold"), table, Text(summary(sample, before, objective, speed)))


def summary(sample: Sample, before: Sample, objective: Objective, speed: float) -> str:
    """The deployment in one line: load, latencies against the objective, attainment, ratio of roles."""
    prefill, decode, both = (sample.with_role(role) for role in (Role.PREFILL, Role.DECODE, Role.BOTH))
    ratio = f"{prefill}P:{decode}D" + (f"+{both}B" if both else "")
    now, then = sample.router or RouterMetrics(), before.router or RouterMetrics()
    ttft, itl = now.ttft.since(then.ttft), now.itl.since(then.itl)
    return (
        f"{ratio}  running {now.running}  queued {now.queued}  "
        f"TTFT {_latency(ttft, objective.ttft_milliseconds, speed)}  "
        f"ITL {_latency(itl, objective.itl_milliseconds, speed)}  "
        f"(last {sample.at - before.at:.0f} s; target {objective.target_percent}%)"
    )


def window_start(samples: Sequence[Sample]) -> Sample:
    """The newest sample that is a whole window old, or the oldest there is."""
    last = samples[-1]
    for sample in reversed(samples):
        if last.at - sample.at >= WINDOW_SECONDS:
            return sample
    return samples[0]


def _pods(cluster: LocalCluster) -> list[PodStatus]:
    return [*(view.status for view in cluster.engines), cluster.router]


def _waits_for(status: PodStatus) -> str:
    return status.reason or ("" if status.phase is PodPhase.READY else "its first answer")


def _phase(phase: PodPhase) -> Text:
    return Text(phase.value, style=_PHASE_STYLE[phase])


def _engine_row(engine: EngineSample, earlier: EngineSample | None, seconds: float) -> tuple[str | Text, ...]:
    name = engine.name + (f" (start {engine.starts})" if engine.starts > 1 else "")
    head = (name, engine.role.value if engine.role else NOTHING, _phase(engine.phase))
    metrics = engine.metrics
    if metrics is None:
        return (*head, *[NOTHING] * 5)
    before = earlier.metrics if earlier is not None and earlier.starts == engine.starts else None
    tokens = metrics.generation_tokens - (before.generation_tokens if before else 0.0)
    return (
        *head,
        str(metrics.running),
        str(metrics.waiting),
        f"{metrics.kv_usage:.0%}",
        NOTHING if metrics.hit_rate is None else f"{metrics.hit_rate:.0%}",
        f"{tokens / seconds:,.0f}" if seconds > 0 else NOTHING,
    )


def _latency(histogram: Histogram, objective: int, speed: float) -> str:
    p50, p95 = histogram.quantile(0.5), histogram.quantile(0.95)
    within = histogram.share_within(objective / 1000 / speed)
    if p50 is None or p95 is None or within is None:
        return NOTHING
    return f"p50 {p50 * speed * 1000:,.0f} p95 {p95 * speed * 1000:,.0f} ms, {within:.0%} within {objective:,}"
