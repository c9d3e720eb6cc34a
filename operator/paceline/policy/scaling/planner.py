"""The scaling decision: one pure function from what is seen and remembered to what is done and why.

Called by the planner's loop, which is told to act (Auto) or only to say (Recommend), and by the simulator. The order
of thought: hold if the metrics can't be trusted; measure and forecast; what each role needs for both horizons; what of
that bounds and budget allow; flips for the near horizon; starts, or drains, for the far one; the record of it all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec.structs import replace

from paceline.api.wire import Role
from paceline.policy.scaling.allocation import clamp, share_out
from paceline.policy.scaling.correction import learn
from paceline.policy.scaling.decision import Decision, Drain, Explanation, Flip, Limit, Rejected
from paceline.policy.scaling.explain import absent, explain, shed_hint
from paceline.policy.scaling.forecast import remember_load
from paceline.policy.scaling.hindsight import plenty, remember_slice, spare
from paceline.policy.scaling.needs import Need
from paceline.policy.scaling.observation import Counts, Observation, PolicyState, Want
from paceline.policy.scaling.output_model import OutputModel, remember
from paceline.policy.scaling.overdraft import indebted, planned_misses, settle
from paceline.policy.scaling.reassign import donor_seconds, reassign
from paceline.policy.scaling.resize import DOWN_MARGIN, resize, restore
from paceline.policy.scaling.settings import EngineModels, ScalingSettings
from paceline.policy.scaling.sizing import Sizing, as_counts, to_lose
from paceline.policy.scaling.supply import Pool, ready_counts, survey
from paceline.policy.scaling.traffic import Traffic, far_needs, measure, near_needs
from paceline.policy.scaling.windows import confirmed_needs, lasting_need, remember_want


def plan(
    observation: Observation, state: PolicyState, settings: ScalingSettings, models: EngineModels
) -> tuple[Decision, PolicyState]:
    """Decide. The same arguments give the same decision, whenever and wherever."""
    pools = survey(observation, settings)
    problem = observation.metrics_problem or (None if observation.arrivals else "no arrivals have been scraped yet")
    if problem is not None:
        return _hold(observation, state, settings, pools, problem)
    if state.decided_at is not None and observation.now < state.decided_at:
        state = _timeless(state)
    state = _learn(observation, state)
    misses = planned_misses(state.account)
    traffic = measure(observation, state, settings, models, OutputModel.of(state.outputs), misses=misses)
    season = settings.forecast.season_seconds
    state = replace(
        state,
        busy_at=observation.now if state.busy_at is None or _busy(observation) else state.busy_at,
        prefill_season=remember_load(state.prefill_season, traffic.prefill_load, now=traffic.end, season=season),
        decode_season=remember_load(state.decode_season, traffic.token_rate, now=traffic.end, season=season),
        account=settle(state.account, traffic, observation.attainment, settings, since=state.decided_at),
    )
    if _idle(observation, state, settings):
        return _stop(observation, state, pools)
    if not settings.aggregated:
        correction = learn(state.correction, traffic, observation.attainment, state.wants, since=state.decided_at)
        curves = remember_slice(state.curves, traffic, settings, models, correction=correction)
        state = replace(state, correction=correction, curves=curves)
    return _decide(traffic, observation, state, settings, models, pools)


def _decide(
    traffic: Traffic,
    observation: Observation,
    state: PolicyState,
    settings: ScalingSettings,
    models: EngineModels,
    pools: tuple[Pool, ...],
) -> tuple[Decision, PolicyState]:
    """Decide on traffic that can be trusted."""
    sizing = _sizing(traffic, observation, state, settings, models, pools)

    def with_margin() -> Mapping[Role, int]:
        guess = sum(sizing.allowed.values())
        needs = far_needs(traffic, settings, models, guess=guess, margin=DOWN_MARGIN, correction=state.correction)
        return clamp(_engines(needs), settings.pools)

    flips: list[Flip] = []
    rejected: list[Rejected] = []
    for pool in pools:
        made, turned_down = reassign(pool, sizing)
        flips += made
        rejected += turned_down
    past = sizing.hindsight
    if past.spared:
        steady = f"the load is steady, and {past.enough} engines would have met the objective"
        why = f"{steady} over the last {past.seconds / 60:.0f} min"
        rejected.append(Rejected(action=f"have {past.spared} more for prefill", why=why))
    if sizing.unconfirmed > 0:
        why = "only the forecast asks for them, and the looks before did not; the next ones will tell"
        rejected.append(Rejected(action=f"plan for {sizing.unconfirmed} more", why=why))
    change = resize(pools, sizing, with_margin)
    engines = as_counts(change.engines)
    before = ready_counts(pools)
    decision = Decision(
        at=observation.now,
        before=before,
        starting=sum(len(pool.starting) for pool in pools),
        draining=sum(len(pool.draining) for pool in pools),
        roles=_after(before, flips),
        engines=engines,
        flips=tuple(flips),
        starts=change.starts,
        drains=change.drains,
        shed=shed_hint(sizing, traffic),
        explanation=explain(
            sizing, traffic, pools, change.engines, [*rejected, *change.rejected], correction=state.correction
        ),
    )
    return decision, replace(state, decided_at=observation.now, targets=engines, wants=tuple(sizing.wants))


def _sizing(
    traffic: Traffic,
    observation: Observation,
    state: PolicyState,
    settings: ScalingSettings,
    models: EngineModels,
    pools: tuple[Pool, ...],
) -> Sizing:
    limits = settings.pools
    last = state.wants[-1] if state.wants else None
    near_guess = 1 if last is None else last.near.prefill + last.near.both
    near = near_needs(traffic, observation, settings, models, guess=near_guess, correction=state.correction)
    far_guess = near_guess if last is None else last.far.total
    far = far_needs(traffic, settings, models, guess=far_guess, correction=state.correction)
    near_lasting = clamp(_engines(near), limits)
    foreseen = clamp(_engines(far), limits)
    lasting_since = observation.now - observation.measured.start_p50_seconds
    believed = confirmed_needs(foreseen, near_lasting, state.wants, now=observation.now)
    bounded = {
        role: max(engines, lasting_need(state.wants, role, since=lasting_since)) for role, engines in believed.items()
    }
    past = spare(bounded, state.curves, traffic, state.account, settings, observation.attainment)
    wanted = {role: count - (past.spared if role is Role.PREFILL else 0) for role, count in bounded.items()}
    allowed = share_out(wanted, limits, math.inf if settings.gpu_budget is None else settings.gpu_budget)
    near_wanted = clamp({role: max(need.engines, need.at_once) for role, need in near.items()}, limits)
    want = Want(
        at=observation.now,
        near=as_counts(near_lasting),
        far=as_counts(allowed),
        ready=ready_counts(pools),
        decoding=observation.decoding,
        queued_seconds=observation.queued_seconds,
        foreseen=as_counts(foreseen),
    )
    return Sizing(
        observation=observation,
        settings=settings,
        near=near,
        far=far,
        near_wanted=near_wanted,
        near_steady={role: near_wanted[role] if role is Role.DECODE else near_lasting[role] for role in near_wanted},
        bounded=bounded,
        unconfirmed=sum(foreseen.values()) - sum(believed.values()),
        hindsight=past,
        wanted=wanted,
        allowed=allowed,
        near_running=traffic.to_keep,
        wants=remember_want(state.wants, want, settings),
        donor_seconds=donor_seconds(traffic, settings),
        indebted=indebted(state.account),
        plenty=plenty(state.curves, settings),
        losses={
            engine.name: to_lose(engine, models.prefill, traffic.outputs.mean, settings.itl_seconds)
            for engine in observation.engines
        },
    )


def _hold(
    observation: Observation, state: PolicyState, settings: ScalingSettings, pools: tuple[Pool, ...], problem: str
) -> tuple[Decision, PolicyState]:
    """Change nothing on missing data; only engines that were lost are replaced."""
    before = ready_counts(pools)
    targets = state.targets
    decision = Decision(
        at=observation.now,
        before=before,
        starting=sum(len(pool.starting) for pool in pools),
        draining=sum(len(pool.draining) for pool in pools),
        roles=before,
        engines=before if targets is None else targets,
        starts=() if targets is None else restore(pools, targets, settings.gpu_budget),
        explanation=Explanation(bound_by=Limit.HELD, held_because=problem, absent=absent(pools)),
    )
    return decision, state


def _stop(observation: Observation, state: PolicyState, pools: tuple[Pool, ...]) -> tuple[Decision, PolicyState]:
    """Nothing has come for long: no engines."""
    decision = Decision(
        at=observation.now,
        before=ready_counts(pools),
        starting=sum(len(pool.starting) for pool in pools),
        draining=sum(len(pool.draining) for pool in pools),
        roles=Counts(),
        engines=Counts(),
        drains=tuple(
            Drain(engine=engine.name, role=engine.role)
            for pool in pools
            for engine in (*pool.starting, *pool.ready, *pool.absent)
        ),
        explanation=Explanation(bound_by=Limit.IDLE, absent=absent(pools)),
    )
    return decision, replace(state, decided_at=observation.now, targets=Counts(), wants=())


def _timeless(state: PolicyState) -> PolicyState:
    """What is still known when the clock has been put back: nothing that happened at a time."""
    return PolicyState(
        targets=state.targets,
        outputs=state.outputs,
        correction=state.correction,
        account=state.account,
    )


def _learn(observation: Observation, state: PolicyState) -> PolicyState:
    end = observation.arrivals[-1].end
    outputs = remember(state.outputs, observation.completions, after=state.seen_until, until=end)
    return replace(state, outputs=outputs, seen_until=end)


def _busy(observation: Observation) -> bool:
    """Whether a request came within the last interval, waits or runs."""
    return (
        any(cell.count for cell in observation.arrivals[-1].cells)
        or observation.queued_requests > 0
        or any(engine.running or engine.waiting for engine in observation.engines)
    )


def _idle(observation: Observation, state: PolicyState, settings: ScalingSettings) -> bool:
    if settings.idle_seconds is None or state.busy_at is None:
        return False
    return observation.now - state.busy_at >= settings.idle_seconds


def _after(before: Counts, flips: list[Flip]) -> Counts:
    roles = {role: before.of(role) for role in Role}
    for flip in flips:
        if flip.before is not None:
            roles[flip.before] -= 1
        roles[flip.after] += 1
    return as_counts(roles)


def _engines(needs: Mapping[Role, Need]) -> dict[Role, float]:
    return {role: need.engines for role, need in needs.items()}
