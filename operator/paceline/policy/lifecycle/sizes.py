"""How many engines each template should have now, and which engines are to go.

Without a roll-out it is simple: as many as wanted. During one, engines are replaced ``step`` at a time. Where the
budget has room, new ones start first and old ones leave when the new ones are ready; where it has none, old ones are
drained first to make room, and never more than ``step`` are missing. A new template whose engines do not get ready in
time stops the roll-out; from then on the old one is kept at strength.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paceline.api.wire import Role
from paceline.policy.lifecycle.observed import Pod
from paceline.policy.lifecycle.view import Group, PoolView


@dataclass(frozen=True, slots=True)
class Sizes:
    """The next step of a pool."""

    keep: Mapping[str, int]
    """Engines by template that are to be there after this step."""
    leaving: Mapping[str, str]
    """Pods that are to drain, with the reason in words."""


def plan_sizes(view: PoolView, now: float, *, pace: int | None = None, chosen: frozenset[str] = frozenset()) -> Sizes:
    """The next step. ``pace`` bounds the engines of the new template, so that pools are replaced in step. ``chosen``
    are the first to go where there are too many; those that never got ready go in any case.
    """
    if not view.rolling:
        return _steady(view, chosen)
    if view.stalled(now):
        return _stalled(view)
    return _rolling(view, pace)


def _steady(view: PoolView, chosen: frozenset[str]) -> Sizes:
    current, goal = view.current, view.total
    hopeless = [pod for pod in current.staying if pod.name in chosen and view.never_ready(pod)]
    leaving = {pod.name: "it did not get ready in time" for pod in hopeless}
    rest = [pod for pod in current.staying if pod.name not in leaving]
    surplus = max(0, len(rest) - goal)
    first = [] if view.ordered else [pod for pod in rest if pod.name in chosen][:surplus]
    others = [pod for pod in rest if pod not in first]
    first += choose_leaving(others, surplus - len(first), view.wanted, ordered=view.ordered)
    leaving |= {pod.name: "fewer engines are wanted" for pod in first}
    keep = goal if current.replicas >= goal else min(goal, current.replicas + view.room)
    return Sizes({view.template: keep}, leaving)


def _rolling(view: PoolView, pace: int | None) -> Sizes:
    current, goal, step = view.current, view.total, view.step
    old_working = [pod for group in view.outdated for pod in group.working]
    broken = [pod for group in view.outdated for pod in group.staying if not pod.containers_ready]
    allowed = goal
    if old_working:
        allowed = min(goal, len(current.ready) + step, goal if pace is None else pace)
    replicas = max(current.replicas, min(allowed, current.replicas + view.room))
    # An old engine leaves when a new one takes requests, not when it soon will.
    working = len(current.ready) + len(old_working)
    if current.workload is None:
        # The API server may refuse it. Nothing old goes before the new workload is there.
        count = 0
    elif working > goal:
        count = working - goal
    else:
        # No room to start what is allowed: make some, as far as what is on its way out does not make it already.
        going = sum(len(group.pods) - len(group.staying) for group in view.outdated) + len(broken)
        count = max(0, min(allowed - replicas - going, working - (goal - step)))
    leaving = {pod.name: "it runs an older revision and is not ready" for pod in broken}
    surplus_of_new = choose_leaving(current.staying, len(current.staying) - goal, view.wanted, ordered=view.ordered)
    leaving |= {pod.name: "fewer engines are wanted" for pod in surplus_of_new}
    for pod in choose_leaving(old_working, count, view.wanted, ordered=view.ordered, others=current.working):
        leaving[pod.name] = "it runs an older revision"
    keep = {group.template: _left(group, leaving) for group in view.outdated}
    return Sizes({view.template: min(replicas, goal), **keep}, leaving)


def _stalled(view: PoolView) -> Sizes:
    """Hold what is there, and let old engines stand in for the new ones that do not come."""
    old = view.outdated
    working = [pod for group in view.groups for pod in group.working]
    surplus = choose_leaving(
        [pod for group in old for pod in group.working],
        len(working) - view.total,
        view.wanted,
        ordered=view.ordered,
        others=view.current.working,
    )
    leaving = {pod.name: "fewer engines are wanted" for pod in surplus}
    keep = {group.template: _left(group, leaving) for group in old}
    missing = view.total - len(view.current.working) - sum(keep.values())
    strongest = max(old, key=lambda group: (len(group.working), group.replicas, group.template))
    if missing > 0 and strongest.workload is not None:
        keep[strongest.template] += min(missing, view.room)
    return Sizes({view.template: view.current.replicas, **keep}, leaving)


def _left(group: Group, leaving: Mapping[str, str]) -> int:
    return sum(pod.name not in leaving for pod in group.staying)


def choose_leaving(
    candidates: Sequence[Pod],
    count: int,
    wanted: Mapping[Role, int],
    *,
    ordered: bool,
    others: Sequence[Pod] = (),
) -> tuple[Pod, ...]:
    """``count`` of the ``candidates`` that are missed least: engines that do not work, then those whose role has most
    to spare, the youngest first. ``others`` count for the roles but stay. ``ordered`` workloads leave no choice.
    """
    if count <= 0:
        return ()
    if ordered:
        return tuple(sorted(candidates, key=_ordinal, reverse=True)[:count])
    idle = sorted((pod for pod in candidates if not pod.containers_ready), key=_youngest_first)
    chosen = idle[:count]
    rest = sorted((pod for pod in candidates if pod.containers_ready), key=_youngest_first)
    held = Counter(pod.role for pod in (*rest, *others))
    while len(chosen) < count and rest:
        pod = max(rest, key=lambda pod: held[pod.role] - (wanted.get(pod.role, 0) if pod.role else 0))
        rest.remove(pod)
        held[pod.role] -= 1
        chosen.append(pod)
    return tuple(chosen)


def _youngest_first(pod: Pod) -> tuple[float, str]:
    return -pod.created, pod.name


def _ordinal(pod: Pod) -> tuple[int, str]:
    digits = pod.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else -1, pod.name
