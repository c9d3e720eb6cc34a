"""Cache events for a long time: conversations, restarts, resets and churn of engines. Does the router's memory stay
flat, does it go on serving, and does its index equal the engines' caches at the end?

Run: ``python -m tests.bench.soak_index --minutes 30``. Exits non-zero when a request failed for another reason than the
engine that was just killed, or when an index differs at the end. Memory: resident bytes, slope over the second half.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from paceline.api import wire
from paceline.local.files import replace
from tests.bench.stack import wait_for
from tests.processes import cpu_seconds, free_ports, rss_bytes

MODEL = "soak"
NAME_BITS = 2**60 - 1
CHURN_SECONDS = 15.0
"""Something happens to an engine this often."""
SAMPLE_SECONDS = 5.0
SETTLE_SECONDS = 60.0
"""An index may take this long to be right after the last request."""
CLIENTS = 12
START_SECONDS = 180.0
"""An engine may take this long to start: the machine may be busy with other things."""
MIB = 1024 * 1024
FILLING = 2_300
"""Prompts of a stride each, before the time counts: more than the router remembers names of. Else that store, which is
bounded, would fill for half an hour and look like a leak."""
FILLING_CHARACTERS = 4_500
HOST_TIER = '{"kv_connector":"OffloadingConnector","kv_connector_extra_config":{"num_cpu_blocks":1500}}'


@dataclass(slots=True)
class EmulatedEngine:
    """One engine process, which may be started anew on the same ports."""

    name: str
    folder: Path
    ports: list[int]
    starts: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def endpoint(self) -> wire.EngineEndpoint:
        return wire.EngineEndpoint(
            name=self.name, host="127.0.0.1", port=self.ports[0], role=wire.Role.BOTH, state=wire.EngineState.READY,
            start_id=str(self.starts), kv_events=f"tcp://127.0.0.1:{self.ports[1]}",
            kv_replay=f"tcp://127.0.0.1:{self.ports[2]}",
        )  # fmt: skip

    async def start(self) -> None:
        self.starts += 1
        events = {
            "enable_kv_cache_events": True, "endpoint": f"tcp://127.0.0.1:{self.ports[1]}",
            "replay_endpoint": f"tcp://127.0.0.1:{self.ports[2]}", "topic": f"kv@{self.name}@{MODEL}",
            "buffer_steps": 2000,
        }  # fmt: skip
        command = [
            sys.executable, "-m", "paceline_worker.emulator", "--host", "127.0.0.1", "--port", str(self.ports[0]),
            "--model", MODEL, "--profile", "qwen3-32b-h200-tp2", "--speed", "20", "--num-gpu-blocks-override", "3000",
            "--max-model-len", "20000", "--kv-events-config", json.dumps(events), "--kv-transfer-config", HOST_TIER,
            "--enable-faults",
        ]  # fmt: skip
        await asyncio.to_thread(self._run, command)

    def _run(self, command: list[str]) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_for(f"{self.url}/health", self.process, seconds=START_SECONDS)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Soak:
    """The engines, the router before them, and what the clients saw."""

    folder: Path
    engines: list[EmulatedEngine]
    fleet_file: Path
    version: int = 0
    api: str = ""
    admin: str = ""
    router: subprocess.Popen[bytes] | None = None
    killed_at: float = float("-inf")
    outcomes: Counter[str] = field(default_factory=Counter)
    churn: Counter[str] = field(default_factory=Counter)

    def publish(self, *, without: EmulatedEngine | None = None) -> None:
        self.version += 1
        endpoints = tuple(engine.endpoint for engine in self.engines if engine is not without)
        replace(self.fleet_file, wire.encode(wire.Fleet(version=self.version, engines=endpoints)))

    def start_router(self) -> None:
        port, admin = free_ports(2)
        config = wire.RouterConfig(
            deployment=MODEL, namespace="default", served_names=(MODEL,), tokenizer="bytes", disaggregated=False,
            objective=wire.Objective(ttft_milliseconds=2000, itl_milliseconds=50), engine_speed=20.0,
            engine_profile="qwen3-32b-h200-tp2",
            # Its clients would not wait before they come again, and a busy machine makes them late.
            admission=wire.Admission(late=wire.Late.SERVE),
        )  # fmt: skip
        command = [
            sys.executable, "-m", "paceline_worker.router", "--host", "127.0.0.1", "--port", str(port),
            "--admin-port", str(admin), "--fleet-file", str(self.fleet_file),
        ]  # fmt: skip
        with (self.folder / "router.log").open("wb") as log:
            self.router = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env=os.environ | {"PACELINE_ROUTER_CONFIG": wire.encode(config).decode()},
            )  # fmt: skip
        self.api, self.admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"
        wait_for(f"{self.admin}/readyz", self.router)


async def fill(soak: Soak, session: aiohttp.ClientSession, rng: random.Random) -> None:
    """Fill what the router bounds: see :data:`FILLING`."""
    left = iter(range(FILLING))

    async def some() -> None:
        for _ in left:
            prompt = rng.randbytes(FILLING_CHARACTERS // 2).hex()
            body = {"model": MODEL, "prompt": prompt, "max_tokens": 1}
            async with session.post(f"{soak.api}/v1/completions", json=body) as answer:
                await answer.read()
                soak.outcomes["ok" if answer.status == 200 else f"status {answer.status} at first"] += 1

    await asyncio.gather(*(some() for _ in range(CLIENTS)))


async def converse(
    soak: Soak, session: aiohttp.ClientSession, rng: random.Random, until: float, pause_seconds: float
) -> None:
    """Conversations one after the other: a system prompt that many share, then turns."""
    while time.monotonic() < until:
        system = f"System prompt number {rng.randrange(12)}. " + "Be helpful. " * 60
        messages: list[dict[str, str]] = [{"role": "system", "content": system}]
        for _ in range(rng.randint(1, 5)):
            if time.monotonic() >= until:
                return
            await asyncio.sleep(rng.random() * 2 * pause_seconds)
            messages.append({"role": "user", "content": f"{rng.random()} " * rng.randint(5, 60)})
            body = {"model": MODEL, "messages": messages, "max_tokens": rng.randint(8, 64)}
            started = time.monotonic()
            try:
                async with session.post(f"{soak.api}/v1/chat/completions", json=body) as answer:
                    document = await answer.json()
                    status = answer.status
            except aiohttp.ClientError as error:
                soak.outcomes[f"router: {type(error).__name__}"] += 1
                continue
            if status != 200:
                ended = time.monotonic()
                beside = started <= soak.killed_at <= ended or soak.killed_at > started - 2
                soak.outcomes["lost with a killed engine" if beside else f"status {status}"] += 1
                break
            soak.outcomes["ok"] += 1
            messages.append({"role": "assistant", "content": document["choices"][0]["message"]["content"]})


async def churn(soak: Soak, session: aiohttp.ClientSession, rng: random.Random, until: float) -> None:
    """Every now and then an engine is killed and started anew, reset, frozen, or leaves the fleet for a while."""
    while time.monotonic() + CHURN_SECONDS < until:
        await asyncio.sleep(CHURN_SECONDS)
        engine = rng.choice(soak.engines)
        what = rng.choice(["restart", "reset", "leave", "freeze", "restart in place"])
        soak.churn[what] += 1
        if what == "restart":
            soak.killed_at = time.monotonic()
            await asyncio.to_thread(engine.kill)
            soak.publish(without=engine)
            await engine.start()
            soak.publish()
        elif what == "restart in place":  # the fleet does not say so: the router has to see it in the numbers
            soak.killed_at = time.monotonic()
            await asyncio.to_thread(engine.kill)
            await engine.start()
            engine.starts -= 1
        elif what == "reset":
            async with session.post(f"{engine.url}/reset_prefix_cache") as answer:
                await answer.read()
        elif what == "leave":
            soak.publish(without=engine)
            await asyncio.sleep(3)
            soak.publish()
        else:
            if engine.process is None:
                raise AssertionError("the engine was started")
            os.kill(engine.process.pid, 19)
            await asyncio.sleep(1.0)
            os.kill(engine.process.pid, 18)


async def compare(soak: Soak, session: aiohttp.ClientSession) -> dict[str, dict[str, int]]:
    """Blocks by engine: held, known, and in how many they differ, once the index had time to settle."""
    result: dict[str, dict[str, int]] = {}
    deadline = time.monotonic() + SETTLE_SECONDS
    for engine in soak.engines:
        while True:
            held = await _get(session, f"{engine.url}/emulator/blocks")
            known = await _get(session, f"{soak.admin}/index/{engine.name}")
            pairs = [(tier, name & NAME_BITS) for tier, names in held.items() for name in names]
            ours = [("GPU", name) for name in known["GPU"]] + [("CPU", name) for name in known["HOST"]]
            differ = len(set(pairs) ^ set(ours))
            result[engine.name] = {"held": len(pairs), "known": len(ours), "differ": differ}
            if not differ or time.monotonic() > deadline:
                break
            await asyncio.sleep(1)
    return result


async def _get(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    async with session.get(url) as answer:
        document: dict[str, Any] = await answer.json()
        return document


async def sample(soak: Soak, samples: list[tuple[float, float, int]], until: float) -> None:
    async with aiohttp.ClientSession() as session:
        start = time.monotonic()
        while time.monotonic() < until:
            index = await _get(session, f"{soak.admin}/index")
            if soak.router is not None:
                at = time.monotonic() - start
                samples.append((at, rss_bytes(soak.router.pid) / MIB, index["entries"]))
            await asyncio.sleep(SAMPLE_SECONDS)


async def metrics(soak: Soak, session: aiohttp.ClientSession) -> list[str]:
    async with session.get(f"{soak.admin}/metrics") as answer:
        page = await answer.text()
    wanted = ("cache_event", "prefix_index", "token_cache_bytes", "sessions", "retries_total")
    return [
        line.removeprefix("paceline_router_")
        for line in page.splitlines()
        if line.startswith(tuple(f"paceline_router_{name}" for name in wanted)) and not line.endswith(" 0.0")
        and "_created" not in line
    ]  # fmt: skip


async def run(minutes: float, engines: int, rate: float) -> int:
    rng = random.Random(11)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        ports = free_ports(3 * engines)
        emulated = [
            EmulatedEngine(f"engine-{number}", folder, ports[3 * number : 3 * number + 3]) for number in range(engines)
        ]
        soak = Soak(folder, emulated, folder / "fleet.json")
        try:
            for engine in emulated:
                await engine.start()
            soak.publish()
            await asyncio.to_thread(soak.start_router)
            samples: list[tuple[float, float, int]] = []
            timeout = aiohttp.ClientTimeout(total=120)
            async with aiohttp.ClientSession(timeout=timeout) as session:
                await fill(soak, session, random.Random(rng.random()))
                until = time.monotonic() + 60 * minutes
                await asyncio.gather(
                    churn(soak, session, random.Random(5), until),
                    sample(soak, samples, until),
                    *(
                        converse(soak, session, random.Random(rng.random()), until, CLIENTS / rate)
                        for _ in range(CLIENTS)
                    ),
                )
                found = await compare(soak, session)
                report(soak, samples, found, await metrics(soak, session))
            good = {"ok", "lost with a killed engine"}
            wrong = any(one["differ"] for one in found.values()) or set(soak.outcomes) - good
            return 1 if wrong else 0
        finally:
            if soak.router is not None:
                soak.router.terminate()
                soak.router.wait(timeout=40)
            for engine in emulated:
                engine.kill()


def report(
    soak: Soak, samples: list[tuple[float, float, int]], found: dict[str, dict[str, int]], lines: list[str]
) -> None:
    half = samples[len(samples) // 2 :]
    slope = statistics.linear_regression([at for at, _, _ in half], [size for _, size, _ in half]).slope * 60
    middle = samples[len(samples) // 2]
    print(f"requests: {dict(soak.outcomes)}")
    print(f"churn: {dict(soak.churn)}")
    print(
        f"router memory: {samples[0][1]:.1f} MiB at the start, {middle[1]:.1f} in the middle, {samples[-1][1]:.1f} at "
        f"the end, largest {max(size for _, size, _ in samples):.1f}; slope in the second half {slope:+.3f} MiB/min"
    )
    print(f"index entries: {middle[2]} in the middle, {samples[-1][2]} at the end")
    if soak.router is not None:
        print(f"router CPU: {cpu_seconds(soak.router.pid):.1f} s")
    for name, one in found.items():
        print(f"{name}: holds {one['held']} blocks, the index knows {one['known']}, {one['differ']} differ")
    print("\n".join(lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--engines", type=int, default=3)
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second at most")
    arguments = parser.parse_args()
    return asyncio.run(run(arguments.minutes, arguments.engines, arguments.rate))


if __name__ == "__main__":
    sys.exit(main())
