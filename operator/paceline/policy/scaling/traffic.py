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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import mul
from typing import Final

from paceline.api.wire import Role
from paceline.policy.scaling.aggregated import aggregated_need
from paceline.policy.scaling.decision import Outlook
from paceline.policy.scaling.demand import Request, arrivals, between, scaled
from paceline.policy.scaling.forecast import fit_trend, season_peak
from paceline.policy.scaling.needs import (
    Need,
    decode_limits,
    decode_needs,
    no_prefill,
    offered_load,
    planned_target,
    prefill_arrivals,
    prefill_need,
    prefill_objective,
    prefill_result,
    running_need,
)
from paceline.policy.scaling.observation import ArrivalInterval, Observation, PolicyState
from paceline.policy.scaling.output_model import OutputModel
from paceline.policy.scaling.prefill_sizing import PrefillObjective, replay_schedule, search_engines
from paceline.policy.scaling.settings import EngineModels, ScalingSettings

BACKLOG_SECONDS: Final = 15.0
"""Work that waits is to be done within this time."""
MAX_SEASON_FACTOR: Final = 10.0
"""Load is not taken to grow beyond this by the season: an hour of silence now says little about the next."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One observation, measured and forecast."""

    begin: float
    end: float
    requests: Sequence[Request]
    """Of the demand window, as measured."""
    outputs: OutputModel
    prefill_load: float
    """Engine seconds a second."""
    token_rate: float
    """Output tokens a second that the arrivals ask for."""
    near: Sequence[Request]
    """The demand window at the rate that is forecast for the moment when a flip takes effect."""
    far: Sequence[Request]
    """The same for the moment when a start takes effect, at the peak until then."""
    outlook: Outlook
    objective: PrefillObjective

    @property
    def seconds(self) -> float:
        """Length of the demand window."""
        return self.end - self.begin


def measure(
    observation: Observation, state: PolicyState, settings: ScalingSettings, models: EngineModels, outputs: OutputModel
) -> Traffic:
    """Look at one observation. Its arrivals must cover some time."""
    end = observation.arrivals[-1].end
    begin = max(observation.arrivals[0].start, end - settings.demand_window_seconds)
    intervals = [interval for interval in observation.arrivals if interval.end > begin]
    requests = [request for request in arrivals(observation) if request.seconds >= begin]
    if requests and requests[0].seconds > begin and len(requests) < sum(_size(one) for one in intervals):
        # More than can be replayed: the window begins where what is left of it does.
        begin = requests[0].seconds
    seconds = end - begin
    load = offered_load(prefill_arrivals(requests, models.prefill), seconds)
    tokens = math.fsum(outputs.expected(request.prompt) for request in requests) / seconds if seconds > 0 else 0.0
    forecast = settings.forecast
    measured = observation.measured
    far_seconds = min(max(measured.start_p95_seconds, forecast.min_horizon_seconds), forecast.max_horizon_seconds)
    near_rate = far_rate = season = 1.0
    trend = fit_trend(intervals)
    near = far = requests
    if forecast.enabled and trend.mean > 0:
        near_rate = trend.rate_at(end + measured.flip_seconds) / trend.mean
        far_rate = trend.peak(end, end + far_seconds, quantile=forecast.peak_quantile) / trend.mean
        season = max(
            _grown(season_peak(slots, now=end, horizon=far_seconds, season=forecast.season_seconds), current)
            for slots, current in ((state.prefill_season, load), (state.decode_season, tokens))
        )
        near = scaled(requests, lambda at: near_rate * trend.mean / trend.rate_at(at))
        far = scaled(requests, lambda at: max(far_rate * trend.mean / trend.rate_at(at), season))
    return Traffic(
        begin=begin,
        end=end,
        requests=requests,
        outputs=outputs,
        prefill_load=load,
        token_rate=tokens,
        near=near,
        far=far,
        outlook=Outlook(
            near_seconds=measured.flip_seconds,
            far_seconds=far_seconds,
            near_factor=near_rate,
            far_factor=max(far_rate, season),
            from_season=season > far_rate,
        ),
        objective=prefill_objective(requests, settings, models),
    )


def near_needs(
    traffic: Traffic, observation: Observation, settings: ScalingSettings, models: EngineModels, *, guess: int
) -> dict[Role, Need]:
    """What each role needs for the time that a flip takes. ``guess``: engines at the last decision."""
    begin = max(traffic.begin, traffic.end - settings.near_window_seconds)
    recent = between(traffic.near, begin, math.inf)
    if settings.aggregated:
        return {Role.BOTH: _both(traffic, recent, settings, models, seconds=traffic.end - begin, guess=guess)}
    waiting = observation.queued_seconds + math.fsum(engine.waiting_seconds for engine in observation.engines)
    prefill = prefill_need(
        prefill_arrivals(recent, models.prefill),
        traffic.objective,
        seconds=traffic.end - begin,
        at_most=_searched(settings),
        guess=guess,
        backlog_engines=waiting / BACKLOG_SECONDS,
    )
    limits = decode_limits(settings, models.decode)
    decode = decode_needs(
        traffic.near,
        traffic.outputs,
        limits,
        models.decode,
        edges=(begin, traffic.end),
        target=planned_target(settings),
    )[0]
    busy = [engine for engine in observation.engines if engine.role is not Role.PREFILL]
    context = math.fsum(engine.kv_usage for engine in busy) * models.decode.kv_capacity_tokens
    running = math.ceil(running_need(sum(engine.running for engine in busy), context, limits, models.decode))
    return {Role.PREFILL: prefill, Role.DECODE: replace(decode, engines=max(decode.engines, running))}


def far_needs(
    traffic: Traffic, settings: ScalingSettings, models: EngineModels, *, guess: int, margin: float = 1.0
) -> dict[Role, Need]:
    """What each role needs for the time that a start takes, with ``margin`` times the load."""
    requests = traffic.far if margin == 1 else scaled(traffic.far, lambda _: margin)
    if settings.aggregated:
        return {Role.BOTH: _both(traffic, requests, settings, models, seconds=traffic.seconds, guess=guess)}
    work = prefill_arrivals(requests, models.prefill)
    edges = _edges(traffic, settings)
    decode = decode_needs(
        requests,
        traffic.outputs,
        decode_limits(settings, models.decode),
        models.decode,
        edges=edges,
        target=planned_target(settings),
    )
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


def attainment_with(traffic: Traffic, prefill_engines: int, models: EngineModels) -> float:
    """Share of the feasible requests of the far horizon that so many prefill engines would serve in time."""
    work = prefill_arrivals(traffic.far, models.prefill)
    return replay_schedule(work, ((-math.inf, prefill_engines),), traffic.objective).attainment


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
        traffic.outputs,
        traffic.objective,
        decode_limits(settings, models.decode),
        models.decode,
        seconds=seconds,
        at_most=_searched(settings),
        guess=guess,
    )


def _edges(traffic: Traffic, settings: ScalingSettings) -> list[float]:
    """Bounds of the slices of the demand window: one slice where engines can't follow from one to the next."""
    slices = max(1, round(traffic.seconds / settings.near_window_seconds)) if settings.flexible else 1
    return [traffic.begin + traffic.seconds * number / slices for number in range(slices)] + [traffic.end]


def _searched(settings: ScalingSettings) -> int:
    """Up to how many engines a need is looked for: beyond what is allowed, so that the shortfall has a number."""
    return 2 * settings.most_engines


def _grown(load: float, current: float) -> float:
    return min(load / current, MAX_SEASON_FACTOR) if current > 0 else 1.0


def _size(interval: ArrivalInterval) -> int:
    return sum(cell.count for cell in interval.cells)
