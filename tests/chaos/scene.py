"""Emulated engines that a supervisor starts again when they die, as the kubelet would, and routers in front of them.

Real processes on loopback. What breaks them is each case's own business; :mod:`tests.chaos.load` says what clients saw.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec

from paceline.api import wire
from paceline.local.files import replace
from tests.chaos.proxy import FaultProxy
from tests.processes import free_ports
from tests.series import total

MODEL = "chaos"
PROFILE = "qwen3-32b-h200-tp2"
CONNECTOR = '{"kv_connector":"NixlConnector","kv_role":"kv_both","kv_load_failure_policy":"recompute"}'
START_SECONDS = 180
NOTICE_SECONDS = 0.5
"""From the death of an engine to its next start: a kubelet's first restart takes no longer."""
STOP_SECONDS = 40.0


@dataclass
class Daemon:
    """A program that is started with the same arguments each time."""

    arguments: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None, "it has not been started"
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.arguments],
                stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=os.environ | self.environment,
            )  # fmt: skip

    def signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)

    async def ended(self, seconds: float = STOP_SECONDS) -> int:
        """Its exit status, once it has ended."""
        process = self.process
        assert process is not None
        async with asyncio.timeout(seconds):
            while (status := process.poll()) is None:  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.02)
        return status

    async def stop(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            await self.ended(5.0)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.ended()


class Engine(Daemon):
    """An emulated engine at fixed ports."""

    def __init__(self, name: str, role: wire.Role, ports: Sequence[int], folder: Path, speed: float) -> None:
        self.name, self.role = name, role
        self.port, self.side_channel, events, replay = ports[:4]
        self.network = FaultProxy(self.port)
        """Between it and the routers, where the scene has one."""
        self.state = wire.EngineState.STARTING
        self._events = (f"tcp://127.0.0.1:{events}", f"tcp://127.0.0.1:{replay}")
        publisher = {
            "enable_kv_cache_events": True, "publisher": "zmq", "endpoint": self._events[0],
            "replay_endpoint": self._events[1], "topic": f"kv@{name}@{MODEL}",
        }  # fmt: skip
        super().__init__(
            ["paceline_worker.emulator", "--host", "127.0.0.1", "--port", str(self.port), "--model", MODEL,
             "--profile", PROFILE, "--speed", str(speed), "--kv-transfer-config", CONNECTOR,
             "--kv-events-config", json.dumps(publisher), "--enable-faults"],
            folder / f"{name}.log",
            {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": str(self.side_channel)},
        )  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def health_url(self) -> str:
        """Answers 200 when the engine may get work."""
        return f"{self.url}/health"

    @property
    def endpoint(self) -> wire.EngineEndpoint:
        return wire.EngineEndpoint(
            name=self.name, host="127.0.0.1", port=self.network.port or self.port, role=self.role, state=self.state,
            start_id=str(self.pid), kv_events=self._events[0], kv_replay=self._events[1],
        )  # fmt: skip


class WorkedEngine(Engine):
    """An engine with its worker, as a pod has it: the worker starts it and ends when it does."""

    def __init__(self, name: str, role: wire.Role, ports: Sequence[int], folder: Path, speed: float) -> None:
        super().__init__(name, role, ports[:4], folder, speed)
        self.admin_port = ports[4]
        config = wire.EngineConfig(
            deployment="chaos", namespace="default", model=MODEL, served_names=(MODEL,),
            source=wire.ModelSource(kind=wire.SourceKind.LOCAL, reference="/none"),
            ports=wire.EnginePorts(
                api=ports[0], kv_side_channel=ports[1], kv_events=ports[2], kv_replay=ports[3], admin=ports[4]
            ),
        )  # fmt: skip
        self.arguments = ["paceline_worker.engine"]
        self.environment = {
            "PACELINE_ENGINE_CONFIG": wire.encode(config).decode(), "PACELINE_ENGINE_BACKEND": "emulator",
            "PACELINE_EMULATOR_PROFILE": PROFILE, "PACELINE_EMULATOR_SPEED": str(speed),
            "PACELINE_BIND_HOST": "127.0.0.1", "POD_NAME": name, "POD_NAMESPACE": "default", "POD_IP": "127.0.0.1",
        }  # fmt: skip

    @property
    def health_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}/readyz"


class Router(Daemon):
    """A router that reads the scene's fleet file."""

    def __init__(self, folder: Path, fleet_file: Path, config: wire.RouterConfig, number: int) -> None:
        self.port, self.admin_port = free_ports(2)
        super().__init__(
            ["paceline_worker.router", "--host", "127.0.0.1", "--port", str(self.port),
             "--admin-port", str(self.admin_port), "--fleet-file", str(fleet_file)],
            folder / f"router-{number}.log",
            {"PACELINE_ROUTER_CONFIG": wire.encode(config).decode()},
        )  # fmt: skip

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"


class Scene:
    """Engines with their supervisors, the fleet file, and routers."""

    def __init__(self, folder: Path, client: httpx.AsyncClient) -> None:
        self.folder = folder
        self.client = client
        self.engines: list[Engine] = []
        self.routers: list[Router] = []
        self.fleet_file = folder / "fleet.json"
        self.restarts = 0
        self._version = 0
        self._supervisors: list[asyncio.Task[None]] = []

    @property
    def router(self) -> Router:
        return self.routers[0]

    def of(self, role: wire.Role) -> list[Engine]:
        """Engines of a role."""
        return [engine for engine in self.engines if engine.role is role]

    def show(self) -> None:
        """Tell the routers how the fleet is."""
        self._version += 1
        fleet = wire.Fleet(version=self._version, engines=tuple(one.endpoint for one in self.engines))
        replace(self.fleet_file, wire.encode(fleet))

    async def answers(self, url: str) -> bool:
        """Whether a server says 200."""
        try:
            return (await self.client.get(url, timeout=2.0)).status_code == 200
        except httpx.TransportError:
            return False

    async def until_answers(self, daemon: Daemon, url: str) -> None:
        async with asyncio.timeout(START_SECONDS):
            while not await self.answers(url):
                assert daemon.alive, f"it ended with {daemon.process and daemon.process.returncode}, see {daemon.log}"
                await asyncio.sleep(0.05)

    async def until_restarted(self, times: int) -> None:
        """Return once engines have been started again and were ready ``times`` times."""
        async with asyncio.timeout(START_SECONDS):
            while self.restarts < times:  # noqa: ASYNC110 - the supervisors count
                await asyncio.sleep(0.1)

    async def faults(self, engine: Engine, **settings: object) -> None:
        """Have an engine misbehave, or no more."""
        answer = await self.client.post(f"{engine.url}/emulator/faults", json=settings)
        assert answer.status_code == 200, answer.text

    async def metric(self, name: str, **labels: str) -> float:
        """Of the first router, over all other labels."""
        return total((await self.client.get(f"{self.router.admin}/metrics")).text, name, **labels)

    async def start(self) -> None:
        for engine in self.engines:
            engine.start()
        for engine in self.engines:
            await self.until_answers(engine, engine.health_url)
            engine.state = wire.EngineState.READY
        self.show()
        for router in self.routers:
            router.start()
        for router in self.routers:
            await self.until_answers(router, f"{router.admin}/readyz")
        self._supervisors = [asyncio.create_task(self._supervise(engine)) for engine in self.engines]

    async def _supervise(self, engine: Engine) -> None:
        """Start an engine again whenever it has died."""
        while True:
            while engine.alive:  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.1)
            await asyncio.sleep(NOTICE_SECONDS)
            engine.state = wire.EngineState.STARTING
            self.show()
            engine.start()
            await self.until_answers(engine, engine.health_url)
            engine.state = wire.EngineState.READY
            self.show()
            self.restarts += 1

    async def close(self) -> None:
        for task in self._supervisors:
            task.cancel()
        ended = await asyncio.gather(*self._supervisors, return_exceptions=True)
        await asyncio.gather(*(one.stop() for one in (*self.routers, *self.engines) if one.process is not None))
        for one in ended:
            if isinstance(one, Exception):
                raise one


def router_config(speed: float, *, disaggregated: bool, **changes: object) -> wire.RouterConfig:
    """What the routers of a scene are told; ``changes`` are fields of it."""
    config = wire.RouterConfig(
        deployment="chaos", namespace="default", served_names=(MODEL,), disaggregated=disaggregated,
        objective=wire.Objective(ttft_milliseconds=round(2000 / speed), itl_milliseconds=round(50 / speed)),
        engine_profile=PROFILE, engine_speed=speed, tokenizer="bytes",
        # In the engines' time, as everything that waits for them. The machine may be too slow for the objective, and
        # what is late is not what a scene is about.
        admission=wire.Admission(max_queue_seconds=max(60, round(60 / speed)), late=wire.Late.SERVE),
        timeouts=wire.Timeouts(connect_milliseconds=1000),
    )  # fmt: skip
    return msgspec.structs.replace(config, **changes)


@asynccontextmanager
async def scene(
    folder: Path,
    *,
    prefill: int = 0,
    decode: int = 2,
    speed: float = 1.0,
    routers: int = 1,
    proxied: bool = False,
    workers: bool = False,
    clock: Path | None = None,
    log: Path | None = None,
    **changes: object,
) -> AsyncIterator[Scene]:
    """``prefill + decode`` engines and ``routers``; everything is stopped at the end.

    ``proxied``: with a :class:`FaultProxy` in front of each engine. ``workers``: engines are started by workers.
    ``clock``: a file that says by how much all their wall clocks are off. ``log``: where all of them log, instead of a
    file each. ``changes``: of the routers' settings.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with AsyncExitStack() as closing:
        client = await closing.enter_async_context(httpx.AsyncClient(timeout=30.0, trust_env=False))
        one = Scene(folder, client)
        closing.push_async_callback(one.close)
        roles = [wire.Role.PREFILL] * prefill + [wire.Role.DECODE if prefill else wire.Role.BOTH] * decode
        make = WorkedEngine if workers else Engine
        ports = free_ports(5 * len(roles))
        one.engines = [
            make(f"engine-{number}", role, ports[5 * number : 5 * number + 5], folder, speed)
            for number, role in enumerate(roles)
        ]
        for engine in one.engines if proxied else ():
            await engine.network.start()
            closing.push_async_callback(engine.network.close)
        config = router_config(speed, disaggregated=bool(prefill), **changes)
        one.routers = [Router(folder, one.fleet_file, config, number) for number in range(routers)]
        for daemon in (*one.engines, *one.routers):
            daemon.log = log or daemon.log
            if clock is not None:
                await asyncio.to_thread(clock.write_text, "0")
                daemon.arguments = ["tests.chaos.wrong_clock", str(clock), *daemon.arguments]
        await one.start()
        yield one
