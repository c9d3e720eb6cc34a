"""The SLO report of a load: what was offered, what came back, and how much of it was within the objective.

Pure. Made from the load client's results; times are in the engines' own time, that is wall time times the emulators'
speed. A request that failed, was refused or got too few tokens misses the objective: shares are of what was OFFERED.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from paceline.api.v1alpha1 import Objective
from paceline.local.load import LoadResult, RequestResult
from paceline.policy.quantiles import reached
from paceline.policy.scaling.perfmodel import EngineProfile

QUANTILES: Final = (0.5, 0.9, 0.95, 0.99)
MAX_ERRORS: Final = 10
"""Different errors that a report lists; all failures are counted."""
SLOW_CLIENT_SHARE: Final = 0.05
"""A client that is late by more than this share of the TTFT objective is named in the report."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of one latency, in milliseconds."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Attainment:
    """Percent of the offered requests that were within the objective."""

    ttft: float
    itl: float
    both: float


@dataclass(frozen=True, slots=True)
class Feasible:
    """Requests whose prompt takes less than the TTFT objective on an idle engine with nothing cached, by the engine
    model. The others can't be saved by more engines, only by a cache hit or faster ones.
    """

    percent: float
    """Of the offered requests."""
    attainment_percent: float
    """Of the feasible requests, those within both objectives."""


@dataclass(frozen=True, slots=True)
class ClientReport:
    """How well the load client itself kept up, in milliseconds of the engines' time."""

    late_p99_milliseconds: float
    late_max_milliseconds: float
    lag_p99_milliseconds: float
    """No latency in this report is finer than this."""
    overruns: int
    slow: bool
    """Whether the client was late enough to colour the result."""


@dataclass(frozen=True, slots=True)
class SloReport:
    """Result of one load. Rates are per second of the engines' time."""

    deployment: str
    engines: str
    load: str
    speed: float
    left_out: int
    """Requests of the trace that are too long for the model, and were not sent."""
    malformed: int
    """Rows of the trace that could not be read."""
    offered: int
    completed: int
    failed: int
    errors: dict[str, int]
    seconds: float
    offered_rate: float
    ttft_objective_milliseconds: int
    itl_objective_milliseconds: int
    target_percent: int
    ttft: Quantiles | None
    itl: Quantiles | None
    longest_gap: Quantiles | None
    attainment: Attainment
    feasible: Feasible | None
    """None for real engines, whose prefill times are not known beforehand."""
    met: bool
    goodput_rate: float
    """Offered requests that were within both objectives, per second."""
    prompt_token_rate: float
    output_token_rate: float
    cache_hit_percent: float | None
    """Prompt tokens found in an engine's prefix cache, of those looked up, over all engines."""
    restarts: int
    """Engines that were started again during the load."""
    client: ClientReport

    def as_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class LoadFacts:
    """What a report says besides the load's result."""

    deployment: str
    engines: str
    load: str
    speed: float
    left_out: int = 0
    malformed: int = 0
    cache_hit_percent: float | None = None
    restarts: int = 0
    prefill_model: EngineProfile | None = None
    """Of the emulated engines that compute prompts."""


def make_report(result: LoadResult, objective: Objective, facts: LoadFacts) -> SloReport:
    """Sum up a load that has ended or was broken off."""
    requests = result.requests
    done = [request for request in requests if request.error is None]
    seconds = result.seconds * facts.speed
    verdicts = [verdict(request, objective, facts.speed) for request in requests]
    both = sum(ttft and itl for ttft, itl in verdicts)
    attainment = Attainment(
        ttft=_percent(sum(ttft for ttft, _ in verdicts), len(requests)),
        itl=_percent(sum(itl for _, itl in verdicts), len(requests)),
        both=_percent(both, len(requests)),
    )
    errors = Counter(request.error for request in requests if request.error is not None)
    return SloReport(
        deployment=facts.deployment,
        engines=facts.engines,
        load=facts.load,
        speed=facts.speed,
        left_out=facts.left_out,
        malformed=facts.malformed,
        offered=len(requests),
        completed=len(done),
        failed=len(requests) - len(done),
        errors=dict(errors.most_common(MAX_ERRORS)),
        seconds=seconds,
        offered_rate=_rate(len(requests), seconds),
        ttft_objective_milliseconds=objective.ttft_milliseconds,
        itl_objective_milliseconds=objective.itl_milliseconds,
        target_percent=objective.target_percent,
        ttft=_quantiles((request.ttft for request in done), facts.speed),
        itl=_quantiles((request.itl for request in done), facts.speed),
        longest_gap=_quantiles((request.longest_gap for request in done), facts.speed),
        attainment=attainment,
        feasible=_feasible(requests, verdicts, objective, facts.prefill_model),
        met=bool(requests) and attainment.both >= objective.target_percent,
        goodput_rate=_rate(both, seconds),
        prompt_token_rate=_rate(sum(request.request.input_tokens for request in done), seconds),
        output_token_rate=_rate(sum(request.output_tokens for request in done), seconds),
        cache_hit_percent=facts.cache_hit_percent,
        restarts=facts.restarts,
        client=_client(result, objective, facts.speed),
    )


def _feasible(
    requests: Sequence[RequestResult],
    verdicts: Sequence[tuple[bool, bool]],
    objective: Objective,
    model: EngineProfile | None,
) -> Feasible | None:
    if model is None:
        return None
    limit = objective.ttft_milliseconds / 1000
    attained = [
        ttft and itl
        for request, (ttft, itl) in zip(requests, verdicts, strict=True)
        if model.prefill_seconds(request.request.input_tokens) <= limit
    ]
    return Feasible(_percent(len(attained), len(requests)), _percent(sum(attained), len(attained)))


def verdict(request: RequestResult, objective: Objective, speed: float) -> tuple[bool, bool]:
    """Whether a request was within the TTFT and within the ITL objective. A failed one was within neither.

    An answer of one token has no time between tokens, so it can't miss that objective.
    """
    if request.error is not None or request.ttft is None:
        return False, False
    ttft = request.ttft * speed * 1000 <= objective.ttft_milliseconds
    itl = request.itl is None or request.itl * speed * 1000 <= objective.itl_milliseconds
    return ttft, itl


def _quantiles(values: Iterable[float | None], speed: float) -> Quantiles | None:
    ordered = sorted(value * speed * 1000 for value in values if value is not None)
    if not ordered:
        return None
    p50, p90, p95, p99 = (reached(ordered, q) for q in QUANTILES)
    return Quantiles(p50, p90, p95, p99, ordered[-1])


def _client(result: LoadResult, objective: Objective, speed: float) -> ClientReport:
    late = _milliseconds((request.late for request in result.requests), speed)
    lags = _milliseconds(result.lags, speed)
    limit = SLOW_CLIENT_SHARE * objective.ttft_milliseconds
    return ClientReport(
        late_p99_milliseconds=reached(late, 0.99),
        late_max_milliseconds=late[-1],
        lag_p99_milliseconds=reached(lags, 0.99),
        overruns=result.overruns,
        slow=max(reached(late, 0.99), reached(lags, 0.99)) > limit,
    )


def _milliseconds(values: Iterable[float], speed: float) -> list[float]:
    return sorted(value * speed * 1000 for value in values) or [0.0]


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def report_lines(report: SloReport) -> list[tuple[str, str]]:
    """The report as (label, text) pairs, for people."""
    scale = "" if report.speed == 1 else f" (engines ran {report.speed:g}x as fast; times are in their own time)"
    lines = [
        ("deployment", f"{report.deployment} on {report.engines}{scale}"),
        ("load", f"{report.load}: {report.offered} requests in {report.seconds:.0f} s, {report.offered_rate:.2f}/s"),
        ("completed", f"{report.completed}, failed {report.failed}"),
        *(("  error", f"{count} x {error}") for error, count in report.errors.items()),
        ("TTFT", _latency(report.ttft, report.ttft_objective_milliseconds, report.attainment.ttft)),
        ("ITL", _latency(report.itl, report.itl_objective_milliseconds, report.attainment.itl)),
        (
            "attainment",
            f"{report.attainment.both:.1f}% within both (target {report.target_percent}%: "
            f"{'met' if report.met else 'missed'})",
        ),
        *([("feasible", _feasible_line(report.feasible, report))] if report.feasible is not None else []),
        ("goodput", f"{report.goodput_rate:.2f} requests/s within both, of {report.offered_rate:.2f} offered"),
        ("tokens", f"{report.prompt_token_rate:,.0f}/s in, {report.output_token_rate:,.0f}/s out"),
        (
            "cache",
            "no look-ups"
            if report.cache_hit_percent is None
            else f"{report.cache_hit_percent:.1f}% of prompt tokens hit",
        ),
    ]
    if report.restarts:
        lines.append(("restarts", f"{report.restarts} engines were started again"))
    if report.left_out:
        lines.append(("left out", f"{report.left_out} requests are longer than the model takes and were not sent"))
    if report.malformed:
        lines.append(("malformed", f"{report.malformed} rows of the trace could not be read"))
    lines.append(("client", _client_line(report.client)))
    return lines


def _latency(quantiles: Quantiles | None, objective: int, attainment: float) -> str:
    if quantiles is None:
        return "not measured"
    return (
        f"p50 {quantiles.p50:,.0f}  p90 {quantiles.p90:,.0f}  p95 {quantiles.p95:,.0f}  p99 {quantiles.p99:,.0f}  "
        f"max {quantiles.max:,.0f} ms; {attainment:.1f}% within {objective:,} ms"
    )


def _feasible_line(feasible: Feasible, report: SloReport) -> str:
    return (
        f"{feasible.percent:.1f}% of the requests have a prompt that an idle engine computes within "
        f"{report.ttft_objective_milliseconds:,} ms; {feasible.attainment_percent:.1f}% of those were within both"
    )


def _client_line(client: ClientReport) -> str:
    text = (
        f"late p99 {client.late_p99_milliseconds:,.0f} ms, max {client.late_max_milliseconds:,.0f} ms; "
        f"timer lag p99 {client.lag_p99_milliseconds:,.0f} ms; {client.overruns} overruns"
    )
    return text + ("; TOO SLOW: lower --speed before you trust the latencies" if client.slow else "")
