"""Role changes under continuous load: no request fails, every answer is the one of an undisturbed run, and how long a
change takes.

``python -m tests.bench.flips [--engines 8 --flips 50]`` runs emulated engines behind the real router. The suites run
fewer, and the same on real vLLM. A flip is timed from the moment at which it is ordered: until the router's fleet has
the new role, and until the engine has begun the first request in it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from paceline.api.v1alpha1 import ModelDeployment, load
from paceline.api.wire import Role
from paceline.clock import WallClock
from paceline.local.cluster import LocalCluster
from paceline.local.guard import Guard
from paceline.local.plan import ClusterOptions, make_plan
from paceline.local.pods import LOOPBACK
from paceline.local.ports import PortAllocator
from paceline.local.probe import PodClient
from paceline.policy.lifecycle.orders import Orders
from paceline.policy.quantiles import reached

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "manifests" / "samples" / "elastic.yaml"
POLL_SECONDS = 0.005
LONGEST_WAIT = 60.0


@dataclass
class Outcome:
    """What came of a run."""

    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    """Requests that failed, or were answered otherwise than before."""
    known: list[float] = field(default_factory=list)
    """Seconds until the router had the new role."""
    served: list[float] = field(default_factory=list)
    """Seconds until the first request in it."""

    def __str__(self) -> str:
        def both(values: Sequence[float]) -> str:
            return f"p50 {1000 * reached(values, 0.5):.0f} ms, p99 {1000 * reached(values, 0.99):.0f} ms"

        return (
            f"{len(self.known)} role changes, {self.answers} answers during them, {len(self.wrong)} failed or wrong\n"
            f"until the router knows:              {both(self.known)}\n"
            f"until the first request is served:   {both(self.served)}"
        )


@asynccontextmanager
async def local_cluster(
    md: ModelDeployment, options: ClusterOptions, folder: Path
) -> AsyncIterator[tuple[LocalCluster, aiohttp.ClientSession]]:
    """Engines and router, ready."""
    with Guard() as guard:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=5)) as session:
            plan = make_plan(
                md,
                options,
                ports=PortAllocator(LOOPBACK, random.Random()),
                fleet_path=folder / "fleet.json",
                environment=os.environ,
            )
            client = PodClient(session)
            cluster = LocalCluster(
                plan,
                log_dir=folder / "logs",
                probe=client.ready,
                idle=client.idle,
                guard=guard,
                clock=WallClock(),
            )
            cluster.start()
            try:
                await cluster.wait_ready(lambda: None)
                yield cluster, session
            finally:
                await cluster.stop()


async def run_flips(
    cluster: LocalCluster,
    session: aiohttp.ClientSession,
    prompts: Sequence[list[int]],
    *,
    model: str,
    flips: int,
    clients: int,
    max_tokens: int,
    seed: int = 0,
) -> Outcome:
    """Answer every prompt once in peace, then over and over while engines change roles."""

    salts = itertools.count()

    async def ask(prompt: list[int]) -> str:
        # Salted, so that no cache keeps a request from an engine that has just changed.
        body = {
            "model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True,
            "cache_salt": f"flip-{next(salts)}",
        }  # fmt: skip
        async with session.post(f"{cluster.url}/v1/completions", json=body) as answer:
            document: dict[str, Any] = await answer.json(content_type=None)
        if answer.status != 200:
            return f"{answer.status}: {document}"
        return str(document["choices"][0]["text"])

    expected = [await ask(prompt) for prompt in prompts]
    assert all(expected), "an undisturbed answer is empty"
    outcome = Outcome()
    over = asyncio.Event()

    async def client(number: int) -> None:
        turn = number
        while not over.is_set():
            which = turn % len(prompts)
            turn += clients
            text = await ask(prompts[which])
            outcome.answers += 1
            if text != expected[which]:
                outcome.wrong.append(f"prompt {which}: {text[:200]!r} is not {expected[which][:60]!r}")

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
        dice = random.Random(seed)
        done = 0
        while done < flips:
            done += await _flip(cluster, session, outcome, dice)
        over.set()
    return outcome


async def _flip(cluster: LocalCluster, session: aiohttp.ClientSession, outcome: Outcome, dice: random.Random) -> int:
    """Change one engine, or both where there are no more than two; how many were changed."""
    roles = {view.status.name: view.role for view in cluster.engines}
    able = [name for name, role in roles.items() if list(roles.values()).count(role) > 1]
    chosen = [dice.choice(able)] if able else list(roles)
    other = {Role.PREFILL: Role.DECODE, Role.DECODE: Role.PREFILL}
    changes = {name: other[role] for name in chosen if (role := roles[name]) is not None}
    after = {**roles, **changes}
    counts = {role: list(after.values()).count(role) for role in other}
    ordered = time.monotonic()
    cluster.obey(Orders(counts, keeps_roles=True, roles=changes))
    waiting_known, waiting_served = dict(changes), dict(changes)
    while waiting_known or waiting_served:
        await asyncio.sleep(POLL_SECONDS)
        now = time.monotonic() - ordered
        assert now < LONGEST_WAIT, f"{waiting_served} was not served within {LONGEST_WAIT} s"
        async with session.get(f"http://{LOOPBACK}:{cluster.router.ports.admin}/fleet") as answer:
            engines = {one["name"]: one for one in (await answer.json())["engines"]}
        for name, role in changes.items():
            one = engines[name]
            if name in waiting_known and one["role"] == role.value:
                del waiting_known[name]
                outcome.known.append(now)
                # What it serves from here on in its new role: the count of the other kind may still fall.
                waiting_served[name] = role
            busy = one["prefilling"] if role is Role.PREFILL else one["running"]
            if name in waiting_served and name not in waiting_known and busy > 0:
                del waiting_served[name]
                outcome.served.append(now)
    return len(changes)


def token_prompts(
    count: int, *, longest: int, seed: int = 0, alphabet: Sequence[int] = range(65, 91)
) -> list[list[int]]:
    """Prompts of token ids, from short ones that are computed where they are decoded to long ones that are not."""
    dice = random.Random(seed)
    return [[dice.choice(alphabet) for _ in range(longest * (number + 1) // count)] for number in range(count)]


async def _main(engines: int, flips: int, speed: float) -> int:
    md = load(SAMPLE.read_text(), SAMPLE.name)
    options = ClusterOptions(
        speed=speed, port=0, counts={Role.PREFILL: engines // 2, Role.DECODE: engines - engines // 2}
    )
    with tempfile.TemporaryDirectory(prefix="paceline-flips-") as folder:
        async with local_cluster(md, options, Path(folder)) as (cluster, session):
            outcome = await run_flips(
                cluster, session, token_prompts(24, longest=6000), model="qwen3-32b", flips=flips, clients=2 * engines,
                max_tokens=60,
            )  # fmt: skip
    sys.stdout.write(f"{engines} emulated engines at {speed:g} times real time\n{outcome}\n")
    for wrong in outcome.wrong[:5]:
        sys.stdout.write(f"  {wrong}\n")
    return 1 if outcome.wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, default=8)
    parser.add_argument("--flips", type=int, default=50)
    parser.add_argument("--speed", type=float, default=1.0)
    arguments = parser.parse_args()
    return asyncio.run(_main(arguments.engines, arguments.flips, arguments.speed))


if __name__ == "__main__":
    sys.exit(main())
