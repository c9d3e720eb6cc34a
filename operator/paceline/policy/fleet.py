"""Several ModelDeployments under one GPU quota: who may use how many, and who gave to whom. Pure.

First everybody's minimum, then higher priorities before lower ones, and within a priority in proportion to what is
needed (Sainte-Laguë, engine by engine). What that comes to is not moved at once: GPUs are taken from one that uses them
only when another has lacked them for a while, no more of them than it lacked all the while, and are given only when
they are free, so that no engine drains for a need that is gone by the time it has, and the quota holds at every moment.
Nor do they go back to who gave them up before it has lacked them for a while.
Nobody waits so for its minimum: it has to be given up at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

PATIENCE_SECONDS: Final = 120.0
"""How long one must lack GPUs before another of the same priority gives some up."""
URGENT_SECONDS: Final = 15.0
"""The same where the one that lacks them has the higher priority."""
RETURN_SECONDS: Final = 60.0
"""How long who gave GPUs up must lack them before it gets any back, also where they are free: what a load that has just
begun needs goes up and down, and engines would come and go with it.
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one deployment needs."""

    name: str
    priority: int
    least: int
    """GPUs of its minimum."""
    wanted: int
    """GPUs that it would use if it were alone; at least ``least``."""
    held: int
    """GPUs that its engines take now, starting and draining ones too, and those that its workloads will make."""
    grain: int
    """GPUs of one engine."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """GPUs that one gives up for another."""

    giver: str
    taker: str
    gpus: int
    why: str

    def __str__(self) -> str:
        return f"{self.giver} gives {self.gpus} GPUs to {self.taker}: {self.why}."


@dataclass(frozen=True, slots=True)
class Lack:
    """What a deployment has lacked since it had, or was last promised, its fair share."""

    since: float
    least: float = math.inf
    """GPUs: the fewest that it lacked at any moment since then, besides those that are on their way. What is needed in
    the first seconds of a load is a guess; what was needed all the while is not.
    """


@dataclass(frozen=True, slots=True)
class FleetState:
    """What is remembered from one split to the next."""

    shares: Mapping[str, int] = field(default_factory=dict)
    lacks: Mapping[str, Lack] = field(default_factory=dict)
    """Of those that have less than their fair share."""
    gave: Mapping[str, float] = field(default_factory=dict)
    """When those that gave GPUs up of late did so the last time."""


@dataclass(frozen=True, slots=True)
class Split:
    """Who may use how many GPUs from now on."""

    shares: Mapping[str, int]
    transfers: tuple[Transfer, ...]
    """What is being given up now."""
    state: FleetState


def fair_shares(claims: Sequence[Claim], quota: int) -> dict[str, int]:
    """GPUs by deployment if nobody held any. In sum at most ``quota``; nobody gets more than it wants."""
    shares = {claim.name: 0 for claim in claims}
    left = quota
    in_order = sorted(claims, key=lambda claim: (-claim.priority, claim.name))
    for claim in in_order:
        given = min(claim.least, left // claim.grain * claim.grain)
        shares[claim.name] = given
        left -= given
    for priority in sorted({claim.priority for claim in claims}, reverse=True):
        peers = [claim for claim in in_order if claim.priority == priority]
        while True:
            short = [one for one in peers if shares[one.name] + one.grain <= one.wanted and one.grain <= left]
            if not short:
                break
            best = max(short, key=lambda one: (one.wanted / (2 * shares[one.name] + one.grain), -peers.index(one)))
            shares[best.name] += best.grain
            left -= best.grain
    return shares


def split(claims: Sequence[Claim], quota: int, state: FleetState, *, now: float) -> Split:
    """The next split. Raises ValueError for two deployments of one name."""
    by_name = {claim.name: claim for claim in claims}
    if len(by_name) != len(claims):
        raise ValueError("two deployments have the same name")
    fair = fair_shares(claims, quota)
    current = {claim.name: min(state.shares.get(claim.name, claim.held), max(quota, 0)) for claim in claims}
    lacks = {name: state.lacks.get(name, Lack(now)) for name, due in fair.items() if due > max(current[name], 0)}
    shares = dict(current)
    gave = {name: at for name, at in state.gave.items() if name in by_name and now - at < PATIENCE_SECONDS}
    transfers: list[Transfer] = []
    for claim in claims:
        spare = current[claim.name] - max(claim.held, fair[claim.name])
        if spare > 0:
            shares[claim.name] = current[claim.name] - spare  # not in use: it goes back at once
    for name in sorted(lacks, key=lambda name: (-by_name[name].priority, lacks[name].since, name)):
        taker = by_name[name]
        free = quota - sum(max(shares[other.name], other.held) for other in claims)
        due = fair[name]
        if name in gave and now - lacks[name].since < RETURN_SECONDS:
            due = min(due, taker.least)
        gain = min(due - shares[name], max(0, free) // taker.grain * taker.grain)
        shares[name] += max(0, gain)
        on_their_way = sum(max(0, claim.held - shares[claim.name]) for claim in claims)
        lacking = fair[name] - shares[name] - on_their_way
        if lacking <= 0:
            continue
        lack = lacks[name] = Lack(lacks[name].since, min(lacks[name].least, lacking))
        given = _given_up(taker, lacking, claims, fair, shares, lack=lack, now=now)
        if given:
            transfers += given
            gave |= {one.giver: now for one in given}
            lacks[name] = Lack(now)
    kept = {name: lack for name, lack in lacks.items() if fair[name] > shares[name]}
    return Split(shares, tuple(transfers), FleetState(dict(shares), kept, gave))


def _given_up(
    taker: Claim,
    lacking: int,
    claims: Sequence[Claim],
    fair: Mapping[str, int],
    shares: dict[str, int],
    *,
    lack: Lack,
    now: float,
) -> list[Transfer]:
    """Lower the shares of those that have more than is fair; they drain, and the GPUs are given when they are free."""
    below_minimum = shares[taker.name] < min(taker.least, fair[taker.name])
    left = lacking if below_minimum else int(lack.least)
    found: list[Transfer] = []
    for giver in sorted(claims, key=lambda claim: (claim.priority, fair[claim.name] - shares[claim.name], claim.name)):
        excess = shares[giver.name] - fair[giver.name]
        patience = URGENT_SECONDS if giver.priority < taker.priority else PATIENCE_SECONDS
        if excess <= 0 or left <= 0 or (now - lack.since < patience and not below_minimum):
            continue
        engines = min(-(-left // giver.grain), excess // giver.grain)
        if engines <= 0:
            continue
        shares[giver.name] -= engines * giver.grain
        left -= engines * giver.grain
        found.append(Transfer(giver.name, taker.name, engines * giver.grain, _why(taker, giver)))
    return found


def _why(taker: Claim, giver: Claim) -> str:
    if taker.priority != giver.priority:
        return f"{taker.name} has priority {taker.priority}, {giver.name} {giver.priority}"
    if taker.held < taker.least:
        return f"{taker.name} holds {taker.held} of the {taker.least} of its minimum"
    needs = f"{taker.name} holds {taker.held} of the {taker.wanted} that it needs"
    return f"both have priority {taker.priority}, {needs}, {giver.name} {giver.held} of {giver.wanted}"
