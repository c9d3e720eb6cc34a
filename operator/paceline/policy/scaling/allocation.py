"""Sharing out what is not enough: engines over roles, when bounds or the GPU budget don't allow all that is needed.

Called by the planner only.
"""

from __future__ import annotations

from collections.abc import Mapping

from paceline.api.wire import Role
from paceline.policy.scaling.settings import PoolSettings


def clamp(needs: Mapping[Role, float], limits: Mapping[Role, PoolSettings]) -> dict[Role, int]:
    """Needs within the bounds of each role; infinite ones become the most there may be."""
    return {role: int(min(max(needs[role], pool.min_engines), pool.max_engines)) for role, pool in limits.items()}


def share_out(wants: Mapping[Role, int], limits: Mapping[Role, PoolSettings], gpus: float) -> dict[Role, int]:
    """At most what is wanted, at least each role's minimum, in sum at most ``gpus`` accelerators.

    By highest averages (Sainte-Laguë): more accelerators never take an engine from a role. The minima are given even
    when the accelerators don't suffice for them: then nothing can be right.
    """
    owed = {role: min(wants[role], limits[role].min_engines) for role in wants}
    left = gpus - sum(count * limits[role].gpus_per_engine for role, count in owed.items())
    while True:
        short = [role for role in wants if owed[role] < wants[role] and limits[role].gpus_per_engine <= left]
        if not short:
            return owed
        # Decode before prefill on a tie: a request can do without remote prefill, never without decode.
        best = max(short, key=lambda role: (wants[role] / (2 * owed[role] + 1), role is Role.DECODE))
        owed[best] += 1
        left -= limits[best].gpus_per_engine


def spread(engines: Mapping[Role, int], limits: Mapping[Role, PoolSettings], total: int) -> dict[Role, int]:
    """``total`` engines over roles in the proportion of ``engines``, each at least that and at most its maximum.

    With fewer than that it is shared out; what no role may have is left over.
    """
    if total < sum(engines.values()):
        gpus = total * next(iter(limits.values())).gpus_per_engine
        return share_out(engines, limits, gpus) if gpus else dict(engines)
    result = dict(engines)
    for _ in range(total - sum(engines.values())):
        open_to = [role for role in result if result[role] < limits[role].max_engines]
        if not open_to:
            break
        best = max(open_to, key=lambda role: (max(1, engines[role]) / (2 * result[role] + 1), role is Role.DECODE))
        result[best] += 1
    return result
