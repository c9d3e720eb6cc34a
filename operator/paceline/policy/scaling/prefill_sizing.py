"""How many prefill engines: a closed-form guess, then a replay of the measured arrivals through that many engines.

A request's prefill time depends on its own length alone, so the distribution of service times is known from the
arrivals. Requests whose own prefill exceeds the objective can't be saved by more engines: they are left out of the
target (their share is reported as the feasibility ceiling) and never out of the load, of which they are often half.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from paceline.policy.scaling.queueing import mean_wait_seconds, probability_wait_over

_ROUNDING: Final = 1e-9
"""Seconds: a prefill that takes exactly what there is, begun at once, is in time."""


class Arrival(Protocol):
    """One arrival to be replayed. They are in order of time."""

    @property
    def seconds(self) -> float:
        """When it arrives."""
        ...

    @property
    def service_seconds(self) -> float:
        """Prefill time on an idle engine, by the engine model."""
        ...


class PrefillArrival(NamedTuple):
    """An arrival of which nothing else is known."""

    seconds: float
    service_seconds: float


@dataclass(frozen=True, slots=True)
class PrefillObjective:
    """What a prefill is measured against."""

    ttft_seconds: float
    transfer_seconds: float = 0.0
    """Time from the end of the prefill to the first token: KV transfer and the first decode step."""
    target: float = 0.95
    """Share of feasible requests that is to meet ``ttft_seconds``."""
    late_age_bound_seconds: float = 60.0
    """As in the router's queue order."""

    @property
    def budget_seconds(self) -> float:
        """What is left for waiting and prefill."""
        return self.ttft_seconds - self.transfer_seconds


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """What one replay gave."""

    engines: int
    feasible: int
    """Arrivals whose own prefill fits the budget."""
    attained: int
    """Feasible arrivals that met it."""

    @property
    def attainment(self) -> float:
        """Share of feasible arrivals that met the objective; 1 when there were none."""
        return self.attained / self.feasible if self.feasible else 1.0


def closed_form_engines(
    services: Sequence[float], arrival_rate: float, arrival_scv: float, objective: PrefillObjective, *, at_most: int
) -> int:
    """Smallest N with P(wait + S ≤ budget) ≥ target over the feasible share, by Allen-Cunneen; ``at_most`` if none is.

    ``services`` are equally likely service times in seconds, ``arrival_rate`` in 1/s, ``arrival_scv`` the squared
    coefficient of variation of the times between arrivals. Assumes stationary arrivals: on bursts it asks for too few.
    """
    if not services or arrival_rate == 0:
        return 0
    mean = math.fsum(services) / len(services)
    if mean == 0:
        return 1
    variance = math.fsum((service - mean) ** 2 for service in services) / len(services)
    slack = [objective.budget_seconds - service for service in services if service <= objective.budget_seconds]
    offered = arrival_rate * mean

    def enough(engines: int) -> bool:
        if offered >= engines:
            return False
        wait = mean_wait_seconds(engines, arrival_rate, mean, arrival_scv, variance / mean**2)
        missed = math.fsum(probability_wait_over(left, engines, offered, wait) for left in slack)
        return missed <= (1 - objective.target) * len(slack)

    return _smallest(enough, low=1, high=at_most)


def replay(arrivals: Sequence[Arrival], engines: int, objective: PrefillObjective) -> ReplayOutcome:
    """Push arrivals through ``engines`` identical engines in virtual time, in the router's queue order. O(n log n)."""
    if engines < 1:
        raise ValueError(f"engines must be at least 1, not {engines}")
    return replay_schedule(arrivals, ((-math.inf, engines),), objective)


def replay_schedule(
    arrivals: Sequence[Arrival],
    schedule: Sequence[tuple[float, int]],
    objective: PrefillObjective,
    *,
    since: float = -math.inf,
) -> ReplayOutcome:
    """The same with a number of engines that changes: ``schedule`` holds (from when on, engines), in order.

    An engine that goes finishes what it has begun. What waits when there is no engine any more is missed. Only what
    arrived from ``since`` on is counted; what came before only sets the scene.

    The order is that of :class:`paceline.policy.waiting.WaitingLine` for one class. All have the same objective here,
    so the earliest deadline is the earliest arrival, and two queues take the place of its heap: most of the planner's
    time is spent in this loop.
    """
    budget, age_bound = objective.budget_seconds, objective.late_age_bound_seconds
    arrived = [arrival.seconds for arrival in arrivals]
    services = [arrival.service_seconds for arrival in arrivals]
    total = len(arrived)
    late: deque[int] = deque()
    now = -math.inf
    free_at: list[float] = []
    engines = most = changed = 0
    change_at = schedule[0][0] if schedule else math.inf
    attained = 0
    head = 0
    while late or head < total:
        following = free_at[0] if free_at else math.inf
        if not late and arrived[head] > following:
            following = arrived[head]
        if following < now:
            following = now
        if change_at <= following and changed < len(schedule):
            at, count = schedule[changed]
            changed += 1
            change_at = schedule[changed][0] if changed < len(schedule) else math.inf
            for _ in range(count - engines):
                heapq.heappush(free_at, at)
            for _ in range(engines - count):
                heapq.heappop(free_at)
            engines, most = count, max(most, count)
            continue
        if not free_at:
            break
        now = following
        served = -1
        if not late or now - arrived[late[0]] <= age_bound:
            while head < total and arrived[head] <= now:
                if now <= arrived[head] + budget - services[head]:
                    served = head
                    head += 1
                    break
                late.append(head)
                head += 1
        if served < 0:
            served = late.popleft()
        done = now + services[served]
        heapq.heapreplace(free_at, done)
        if services[served] <= budget and done - arrived[served] <= budget + _ROUNDING and arrived[served] >= since:
            attained += 1
    counted = services[bisect_left(arrived, since) :]
    return ReplayOutcome(engines=most, feasible=sum(service <= budget for service in counted), attained=attained)


def replay_engines(
    arrivals: Sequence[Arrival], objective: PrefillObjective, *, guess: int, at_most: int
) -> ReplayOutcome:
    """Smallest number of engines whose replay meets the target, or the replay of ``at_most`` when none does.

    ``guess`` only saves time. Attainment grows with engines but for rare anomalies of list scheduling (R. L. Graham,
    1969), so the search doubles its step away from the guess and then bisects; what it returns has been replayed.
    """
    if not arrivals:
        return ReplayOutcome(0, 0, 0)
    return search_engines(
        lambda engines: replay(arrivals, engines, objective),
        objective.target,
        guess=guess,
        at_least=1,
        at_most=at_most,
    )[1]


def search_engines(
    outcome_of: Callable[[int], ReplayOutcome], target: float, *, guess: int, at_least: int, at_most: int
) -> tuple[int, ReplayOutcome]:
    """The smallest number of engines that meets ``target``, or ``at_most`` when none does, and its outcome."""
    if not at_least <= at_most:
        raise ValueError(f"at_most must be at least {at_least}, not {at_most}")
    outcomes: dict[int, ReplayOutcome] = {}

    def enough(engines: int) -> bool:
        outcomes[engines] = outcome_of(engines)
        return outcomes[engines].attainment >= target

    low, high = at_least, at_most
    probe, step = min(max(guess, at_least), at_most), 1
    if enough(probe):
        high = probe
        while high > low:
            probe = max(low, high - step)
            if not enough(probe):
                low = probe + 1
                break
            high, step = probe, 2 * step
    else:
        low = min(probe + 1, at_most)
        while probe < at_most:
            probe = min(probe + step, at_most)
            if enough(probe):
                high = probe
                break
            low, step = min(probe + 1, at_most), 2 * step
    best = _smallest(enough, low=low, high=high)
    return best, outcomes.get(best) or outcome_of(best)


def _smallest(enough: Callable[[int], bool], *, low: int, high: int) -> int:
    """Smallest number in [low, high] that is enough, by bisection; ``high`` is taken as enough."""
    while low < high:
        middle = (low + high) // 2
        if enough(middle):
            high = middle
        else:
            low = middle + 1
    return high
