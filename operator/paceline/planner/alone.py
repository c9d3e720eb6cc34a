"""The planner without an operator: watches routers, says what it would do, and changes nothing. ``paceline planner``
runs it beside engines that somebody else manages.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

import httpx
import msgspec

from paceline.api.v1alpha1 import ModelDeployment
from paceline.api.v1alpha1.scaling import ScalingMode
from paceline.api.wire import EngineState, Role
from paceline.clock import Clock
from paceline.errors import EngineError
from paceline.planner.deployment import DeploymentPlanner, Step
from paceline.planner.measured import EngineFact
from paceline.planner.scrape import RouterScraper
from paceline.planner.source import Router
from paceline.unreadable import UNREADABLE

TIMEOUT_SECONDS = 3.0


class _Engine(msgspec.Struct):
    name: str
    role: Role
    state: EngineState


class _Fleet(msgspec.Struct):
    """What a router says of its engines; the rest is for people."""

    engines: tuple[_Engine, ...] = ()


async def watch(
    md: ModelDeployment,
    routers: Sequence[Router],
    clock: Clock,
    said: Callable[[Step], None],
    *,
    profile: str | None = None,
    looks: int | None = None,
) -> None:
    """Look at ``routers`` at the interval of ``md``, for ever or so many times; ``said`` gets every step.

    Raises EngineError when the first router does not say which engines there are.
    """
    scaling = md.spec.scaling.model_copy(update={"mode": ScalingMode.RECOMMEND})
    md = md.model_copy(update={"spec": md.spec.model_copy(update={"scaling": scaling})})
    source, planner, done = RouterScraper(clock), DeploymentPlanner(md, {}, profile=profile), 0
    created: dict[str, float] = {}
    try:
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, trust_env=False) as http:
            while looks is None or done < looks:
                engines = await _engines(http, routers[0])
                created = {one.name: created.get(one.name, clock.wall()) for one in engines}
                staying = [one.role for one in engines if one.state is not EngineState.DRAINING]
                planner.hold(Counter(staying))
                reading = await source.read("", "", routers, seconds=planner.window_seconds)
                facts = [EngineFact(one.name, one.role, one.state, created[one.name]) for one in engines]
                names = [router.name for router in routers]
                said(await asyncio.to_thread(planner.look, reading, facts, names, now=clock.wall()))
                done += 1
                await asyncio.sleep(0 if done == looks else planner.interval_seconds)
    finally:
        await source.close()


async def _engines(http: httpx.AsyncClient, router: Router) -> tuple[_Engine, ...]:
    host = f"[{router.host}]" if ":" in router.host else router.host
    try:
        answer = await http.get(f"http://{host}:{router.admin_port}/fleet")
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=_Fleet).engines
    except (httpx.HTTPError, *UNREADABLE) as error:
        raise EngineError(f"--router: {router.name} does not say which engines there are: {error}.") from None
