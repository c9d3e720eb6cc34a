"""Engines that can be told to misbehave behind a router, all real processes, and a load on them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from paceline.api import wire
from tests.bench.stack import SERVED_NAME, running_stack

AT_ONCE = 8


@dataclass
class Scene:
    """Four engines behind a router, and clients."""

    client: httpx.AsyncClient
    router: str
    admin: str
    engines: dict[str, str]
    least_tokens: int
    most_tokens: int
    asked: int = 0
    statuses: Counter[int] = field(default_factory=Counter)

    async def ask(self) -> None:
        self.asked += 1
        body = {
            "model": SERVED_NAME, "max_tokens": self.most_tokens, "stream": True, "min_tokens": self.least_tokens,
            "prompt": f"Question {self.asked}: what is {self.asked} times {self.asked + 1}? Say it in English, please.",
        }  # fmt: skip
        async with self.client.stream("POST", f"{self.router}/v1/completions", json=body) as answer:
            said = await answer.aread()
        self.statuses[answer.status_code if said.rstrip().endswith(b"data: [DONE]") else 0] += 1

    async def load(self, until: Callable[[], Awaitable[bool]], *, most: int) -> int:
        """Requests, :data:`AT_ONCE` at a time, until something is so; how many that took."""
        begun = self.asked
        while not await until():
            assert self.asked - begun < most, f"not within {most} requests"
            await asyncio.gather(*(self.ask() for _ in range(AT_ONCE)))
        return self.asked - begun

    async def fault(self, engine: str, **fault: Any) -> None:
        answer = await self.client.post(f"{self.engines[engine]}/emulator/faults", json=fault)
        answer.raise_for_status()

    async def suspended(self) -> dict[str, str]:
        fleet = (await self.client.get(f"{self.admin}/fleet")).json()
        return {one["name"]: one["suspended"] for one in fleet["engines"] if one["suspended"] is not None}

    async def page(self) -> str:
        return (await self.client.get(f"{self.admin}/metrics")).text


@asynccontextmanager
async def scene(
    folder: Path,
    *,
    engines: int,
    least_tokens: int,
    most_tokens: int,
    hold_seconds: int = 1,
    slow: wire.WatchMode = wire.WatchMode.OFF,
) -> AsyncIterator[Scene]:
    health = wire.OutputHealth(hold_seconds=hold_seconds, keep_samples=100, max_out_percent=50, slow_engines=slow)
    stack = running_stack(
        folder, prefill=0, decode=engines, profile="qwen3-32b-h200-tp2", speed=40.0, faults=True, output_health=health
    )
    with stack as running:
        async with httpx.AsyncClient(timeout=30) as client:
            names = {f"engine-{index}": url for index, url in enumerate(running.engine_urls)}
            yield Scene(client, running.router_url, running.admin_url, names, least_tokens, most_tokens)


def asked(here: Scene, count: int) -> Callable[[], Awaitable[bool]]:
    async def so() -> bool:
        return here.asked >= count

    return so


def all_well(here: Scene) -> Callable[[], Awaitable[bool]]:
    async def so() -> bool:
        return not await here.suspended()

    return so


def seen_out(here: Scene, reasons: dict[str, str]) -> Callable[[], Awaitable[bool]]:
    """Whether each of these engines has been out by now; never another one."""
    found: dict[str, str] = {}

    async def so() -> bool:
        now = await here.suspended()
        assert now.items() <= reasons.items(), f"{now} are out and only {reasons} should be"
        found.update(now)
        return found == reasons

    return so
