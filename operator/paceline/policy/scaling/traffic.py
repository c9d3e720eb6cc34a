"""The demand of one observation for both horizons: what arrived, scaled to what is forecast to arrive.

The far horizon asks how many engines there should be when a new one would be ready. It replays the whole demand
window. Where engines can change roles it is split into slices as long as the near window, decode gets what it needs in
each, and prefill is replayed on the rest: two roles that peak one after the other share engines, and adding up their
peaks would order those twice.

The near horizon asks which roles the engines that are there should have: the last slice, the work that waits and the
sequences that run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import mul
from typing import Final

from paceline.api.wire import Role
from paceline.policy.scaling.aggregated import aggregated_need
from paceline.policy.scaling.decision import Outlook
from paceline.policy.scaling.demand import Request, between, count_of, repeated, scaled, window
from paceline.policy.scaling.forecast import Trend, season_peak
from paceline.policy.scaling.needs import (
    PLANNED_MISSES,
    Need,
    decode_limits,
    decode_needs,
    decode_target,
    no_prefill,
    offered_load,
    prefill_need,
    prefill_objective,
    prefill_result,
    running_need,
)
from paceline.policy.scaling.observation import Observation, PolicyState
from paceline.policy.scaling.output_model import OutputModel
from paceline.policy.scaling.prefill_sizing import PrefillObjective, replay_schedule, search_engines
from paceline.policy.scaling.settings import EngineModels, ScalingSettings
from paceline.policy.scaling.trends import likely_to_last, load_trends

BACKLOG_SECONDS: Final = 15.0
"""Work that waits is to be done within this time."""
GROWTH_SECONDS: Final = 60.0
"""Decode engines are to suffice for what runs by then. Longer than until the next decision: a request is judged by the
mean over its answer, so those that begin now need the engines of a while later.
"""
GROWTH_SEEN_SECONDS: Final = 30.0
"""How long it must have grown like that."""
DECISION_JITTER_SECONDS: Final = 5.0
"""A decision that was so much later than an interval began still stands for its beginning."""
MAX_GROWTH: Final = 4.0
"""No part of the window is scaled up by more: a moment of silence says little about what follows."""
TRUSTED_STEP: Final = 0.5
TELLING_REQUESTS: Final = 30
"""Since a step, to stand for what is to come."""
TINY: Final = 1e-9
"""Loads below this are none."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One observation, measured and forecast."""

    begin: float
    """Of the demand window, or of as much of it as can be replayed."""
    end: float
    requests: Sequence[Request]
    """Of that time, as measured."""
    measured_from: float
    """Where the whole demand window begins, for which it is measured what was attained."""
    request_rate: float
    """Requests a second in the whole of it."""
    outputs: OutputModel
    prefill_load: float
    """Engine seconds a second."""
    token_rate: float
    """Output tokens a second that the arrivals ask for."""
    near: Mapping[Role, Sequence[Request]]
    """The demand window, by role at the load that is forecast for the moment when a flip takes effect."""
    far: Mapping[Role, Sequence[Request]]
    """The same for the moment when a start takes effect, at the peak until then."""
    outlook: Outlook
    objective: PrefillObjective
    running: float
    """Decode engines that what runs needs."""
    to_run: int
    """Decode engines for what will run in :data:`GROWTH_SECONDS`. No forecast of answers is believed that asks for far
    more: after a change of the mix it is made of answers of the old kind.
    """
    to_keep: int
    """Decode engines for what runs, however unevenly it is shared."""
    believed: float
    """Most decode engines that a forecast of answers is believed to need; infinite while nothing is known to run."""
    misses: float
    """Share of the allowed misses that is planned with."""
    steady: bool
    """Whether neither role's load has changed within the whole window."""
    to_prefill: bool
    """Whether the mix moves towards prefill: decode's load falls, or prefill's rises."""

    @property
    def seconds(self) -> float:
        """Length of the demand window."""
        return self.end - self.begin

    @property
    def feasible(self) -> float:
        """Share of the requests that an idle engine would serve in time."""
        budget = self.objective.budget_seconds
        within = sum(request.service_seconds <= budget for request in self.requests)
        return within / len(self.requests) if self.requests else 1.0


def measure(
    observation: Observation,
    state: PolicyState,
    settings: ScalingSettings,
    models: EngineModels,
    outputs: OutputModel,
    *,
    misses: float = PLANNED_MISSES,
) -> Traffic:
    """Look at one observation. Its arrivals must cover some time. ``misses``: share of the allowed ones to plan for."""
    seen = window(observation, models.prefill, outputs, seconds=settings.demand_window_seconds)
    begin, end, seconds, requests = seen.begin, seen.end, seen.seconds, seen.requests
    load = offered_load(requests, seconds)
    tokens = math.fsum(request.output for request in requests) / seconds if seconds > 0 else 0.0
    measured, forecast = observation.measured, settings.forecast
    far_seconds = min(max(measured.start_p95_seconds, forecast.min_horizon_seconds), forecast.max_horizon_seconds)
    season = max(
        _grown(season_peak(slots, now=end, horizon=far_seconds, season=forecast.season_seconds), current)
        for slots, current in ((state.prefill_season, load), (state.decode_season, tokens))
    )
    near: dict[Role, Sequence[Request]] = {}
    far: dict[Role, Sequence[Request]] = {}
    factors: dict[Role, tuple[float, float]] = {}
    steady = seen.even
    trends = load_trends(
        requests,
        [(max(one.start, begin), one.end) for one in seen.intervals],
        settings.pools,
        independent=settings.near_window_seconds,
    )
    for role, trend in likely_to_last(trends, end, start_seconds=measured.start_p50_seconds).items():
        near[role], far[role], factors[role] = requests, requests, (1.0, 1.0)
        if forecast.enabled:
            steady = steady and trend.flat
            soon = trend.forecast(end + measured.flip_seconds)
            later = trend.peak(end, end + far_seconds, quantile=forecast.peak_quantile)
            near[role] = _at_rate(requests, trend, soon, begin=begin, end=end)
            least = season if season > 1 else 0.0
            far[role] = _at_rate(requests, trend, later, begin=begin, end=end, least=least)
            factors[role] = (_grown(soon, trend.mean), max(season, _grown(later, trend.mean)))
    first, *_, last = [*settings.pools, *settings.pools]
    running, to_keep, to_run = _running(observation, state, settings, models)
    return Traffic(
        begin=begin,
        end=end,
        requests=requests,
        measured_from=seen.measured_from,
        request_rate=seen.rate,
        outputs=outputs,
        prefill_load=load,
        token_rate=tokens,
        near=near,
        far=far,
        outlook=Outlook(
            near_seconds=measured.flip_seconds,
            far_seconds=far_seconds,
            prefill_near=factors[first][0],
            decode_near=factors[last][0],
            prefill_far=factors[first][1],
            decode_far=factors[last][1],
            from_season=forecast.enabled and season > 1 and season >= max(far for _, far in factors.values()),
        ),
        objective=prefill_objective(requests, settings, models, misses=misses),
        misses=misses,
        running=running,
        to_run=to_run,
        to_keep=to_keep,
        believed=to_run + 1 if running else math.inf,
        steady=steady,
        to_prefill=any(trend.falls if role is Role.DECODE else trend.rises for role, trend in trends.items()),
    )


def _at_rate(
    requests: Sequence[Request], trend: Trend, load: float, *, begin: float, end: float, least: float = 0.0
) -> Sequence[Request]:
    """The window as if its load had been ``load`` all the time, or ``least`` times what it was if that is more.

    After a step it is made of what came since, over and over: the new requests may be of another kind.
    """
    if trend.flat and least <= 1:
        return requests
    if trend.step_at is not None and least <= 1:
        newest = between(requests, trend.step_at, math.inf)
        if trend.trust >= TRUSTED_STEP and len(newest) >= TELLING_REQUESTS:
            return repeated(newest, seconds=end - trend.step_at, since=begin)
    return scaled(requests, lambda at: min(max(load / max(trend.rate_at(at), TINY), least), MAX_GROWTH))


def near_needs(
    traffic: Traffic,
    observation: Observation,
    settings: ScalingSettings,
    models: EngineModels,
    *,
    guess: int,
    correction: float = 1.0,
) -> dict[Role, Need]:
    """What each role needs for the time that a flip takes. ``guess``: engines at the last decision."""
    begin = max(traffic.begin, traffic.end - settings.near_window_seconds)
    recent = between(traffic.near[Role.BOTH if settings.aggregated else Role.PREFILL], begin, math.inf)
    if settings.aggregated:
        return {Role.BOTH: _both(traffic, recent, settings, models, seconds=traffic.end - begin, guess=guess)}
    waiting = observation.queued_seconds + math.fsum(engine.waiting_seconds for engine in observation.engines)
    work = _times(recent, correction)
    prefill = prefill_need(
        work,
        traffic.objective,
        seconds=traffic.end - begin,
        at_most=_searched(settings),
        guess=guess,
    )
    # A queue that the idle time of those engines suffices for moves nobody. Another gets as many again at most: whoever
    # waits must not take everything from those who decode.
    busy = offered_load(work, traffic.end - begin) + waiting / BACKLOG_SECONDS
    backlog = math.ceil(min(waiting / BACKLOG_SECONDS, max(1.0, prefill.engines))) if busy > prefill.engines else 0
    decode = decode_needs(
        traffic.near[Role.DECODE],
        decode_limits(settings, models.decode),
        models.decode,
        edges=(begin, traffic.end),
        target=decode_target(settings, traffic.misses),
    )[0]
    lasting = max(math.ceil(traffic.running), min(decode.engines, traffic.believed))
    return {
        Role.PREFILL: replace(prefill, at_once=prefill.engines + backlog),
        Role.DECODE: replace(decode, engines=lasting, at_once=max(lasting, traffic.to_run)),
    }


def _running(
    observation: Observation, state: PolicyState, settings: ScalingSettings, models: EngineModels
) -> tuple[float, int, int]:
    """Decode engines for what runs, evenly shared and not, and for what will run in :data:`GROWTH_SECONDS`.

    What waits for a place among the streams would run if there were more engines: up to as many as run.
    """
    limits = decode_limits(settings, models.decode)
    busy = [engine for engine in observation.engines if engine.role is not Role.PREFILL]
    context = math.fsum(engine.kv_usage for engine in busy) * models.decode.kv_capacity_tokens
    running, sequences = sum(engine.running for engine in busy), observation.decoding
    if running:
        context *= sequences / running
    more = 1 + _growth(observation, state) / sequences if sequences else 1.0
    present = running_need(sequences, context, limits, models.decode)
    soon = running_need(round(sequences * more), context * more, limits, models.decode)
    return present, math.ceil(_uneven(present, sequences)), math.ceil(_uneven(soon, sequences))


def _uneven(engines: float, sequences: int) -> float:
    """Engines for sequences that are not shared evenly: one of them has √B more than the mean B, as by chance."""
    return engines * (1 + math.sqrt(max(1.0, engines) / sequences)) if sequences else engines


def _growth(observation: Observation, state: PolicyState) -> float:
    """Requests by which those that run will have grown in :data:`GROWTH_SECONDS`, if it goes on as it does.

    When answers become longer, those that ended tell it last: they are the short ones. That more and more run tells it
    at once. Not by what came and did not end: whoever was refused, or went away, did neither run nor end. Up to three
    standard deviations of what arrivals and endings do by chance it is taken for chance.
    """
    since = observation.arrivals[-1].end - GROWTH_SEEN_SECONDS
    at = since + DECISION_JITTER_SECONDS
    before = next((want.decoding for want in reversed(state.wants) if want.at <= at), None)
    if before is None:
        return 0.0
    came = sum(count_of(one) for one in observation.arrivals if one.start >= since)
    ended = sum(cell.count for one in observation.completions if one.start >= since for cell in one.cells)
    seen = max(0.0, observation.decoding - before - 3 * math.sqrt(came + ended))
    return seen * GROWTH_SECONDS / GROWTH_SEEN_SECONDS


def far_needs(
    traffic: Traffic,
    settings: ScalingSettings,
    models: EngineModels,
    *,
    guess: int,
    margin: float = 1.0,
    correction: float = 1.0,
) -> dict[Role, Need]:
    """What each role needs for the time that a start takes, with ``margin`` times the load.

    ``correction``: see :mod:`~paceline.policy.scaling.correction`; it is for prefill only.
    """
    if settings.aggregated:
        requests = _times(traffic.far[Role.BOTH], margin)
        return {Role.BOTH: _both(traffic, requests, settings, models, seconds=traffic.seconds, guess=guess)}
    work = _times(traffic.far[Role.PREFILL], margin * correction)
    edges = _edges(traffic, settings)
    decode = decode_needs(
        _times(traffic.far[Role.DECODE], margin),
        decode_limits(settings, models.decode),
        models.decode,
        edges=edges,
        target=decode_target(settings, traffic.misses),
    )
    most = traffic.believed * max(1.0, traffic.outlook.decode_far) * margin
    decode = [need if need.engines <= most else replace(need, engines=math.ceil(most)) for need in decode]
    last = decode[-1]
    if not settings.flexible or math.isinf(last.engines):
        prefill = prefill_need(
            work, traffic.objective, seconds=traffic.seconds, at_most=_searched(settings), guess=guess
        )
        return {Role.PREFILL: prefill, Role.DECODE: last}
    taken = [int(need.engines) for need in decode]
    if not work:
        return {Role.PREFILL: no_prefill(), Role.DECODE: last}
    lengths = [end - begin for begin, end in pairwise(edges)]
    steady = offered_load(work, traffic.seconds) + math.fsum(map(mul, taken, lengths)) / traffic.seconds
    least = max(*taken, math.floor(steady)) + 1
    total, outcome = search_engines(
        lambda engines: replay_schedule(
            work, [(begin, engines - held) for begin, held in zip(edges, taken, strict=False)], traffic.objective
        ),
        traffic.objective.target,
        guess=guess,
        at_least=least,
        at_most=max(least, _searched(settings)),
    )
    enough = outcome.attainment >= traffic.objective.target
    return {
        Role.PREFILL: prefill_result(total - taken[-1], outcome.attainment, enough=enough),
        Role.DECODE: last,
    }


def attainment_with(traffic: Traffic, prefill_engines: int, *, correction: float) -> float:
    """Share of the feasible requests of the far horizon that so many prefill engines would serve in time."""
    return replay_schedule(
        _times(traffic.far[Role.PREFILL], correction), ((-math.inf, prefill_engines),), traffic.objective
    ).attainment


def _both(
    traffic: Traffic,
    requests: Sequence[Request],
    settings: ScalingSettings,
    models: EngineModels,
    *,
    seconds: float,
    guess: int,
) -> Need:
    return aggregated_need(
        requests,
        traffic.objective,
        decode_limits(settings, models.decode),
        models.decode,
        seconds=seconds,
        at_most=_searched(settings),
        guess=guess,
    )


def _times(requests: Sequence[Request], factor: float) -> Sequence[Request]:
    return requests if factor == 1 else scaled(requests, lambda _: factor)


def _edges(traffic: Traffic, settings: ScalingSettings) -> list[float]:
    """Bounds of the slices of the demand window: one slice where engines can't follow from one to the next."""
    slices = max(1, round(traffic.seconds / settings.near_window_seconds)) if settings.flexible else 1
    return [traffic.begin + traffic.seconds * number / slices for number in range(slices)] + [traffic.end]


def _searched(settings: ScalingSettings) -> int:
    """Up to how many engines a need is looked for: beyond what is allowed, so that the shortfall has a number."""
    return 2 * settings.most_engines


def _grown(load: float, current: float) -> float:
    return min(load / current, MAX_GROWTH) if current > 0 else 1.0
