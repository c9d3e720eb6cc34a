"""Emulated engines and one router as processes on loopback, for measurements.

No engine worker and no local runtime: a measurement of the router starts only what is on the request path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from paceline.api import wire
from tests.processes import free_ports

SERVED_NAME = "bench"
TTFT_MILLISECONDS = 2000
ITL_MILLISECONDS = 50
MAX_QUEUE_SECONDS = 60
CONNECTOR = '{"kv_connector":"NixlConnector","kv_role":"kv_both"}'


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack. URLs have no trailing slash."""

    router_url: str
    admin_url: str
    router_pid: int
    engine_urls: tuple[str, ...]


def wait_for(url: str, process: subprocess.Popen[bytes], *, seconds: float = 120.0) -> None:
    """Return when ``url`` answers 200. Raises RuntimeError when the process ends or the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode} before {url} answered")
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise RuntimeError(f"{url} did not answer within {seconds} s")


@contextmanager
def _process(arguments: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=os.environ | environment,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _events_config(name: str, events: int, replay: int) -> list[str]:
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://127.0.0.1:{events}",
        "replay_endpoint": f"tcp://127.0.0.1:{replay}",
        "topic": f"kv@{name}@{SERVED_NAME}",
    }
    return ["--kv-events-config", json.dumps(config)]


@contextmanager
def running_stack(
    folder: Path,
    *,
    prefill: int,
    decode: int,
    profile: str,
    speed: float,
    local_prefill_tokens: int = 0,
    kv_events: bool = False,
    tokenizer: str | None = None,
    cache_percent: int = 100,
    late: wire.Late = wire.Late.LIMIT,
    faults: bool = False,
    output_health: wire.OutputHealth | None = None,
    max_running_per_engine: int = 256,
    hedging: wire.Hedging | None = None,
    itl_milliseconds: int = ITL_MILLISECONDS,
) -> Iterator[Stack]:
    """Start ``prefill + decode`` emulators and a router; logs go to ``folder``. All are stopped on exit.

    ``kv_events``: whether engines tell the router what they hold; ``tokenizer`` and ``cache_percent``: its settings.
    ``faults``: whether engines can be told to misbehave. ``hedging``: when a second one is asked.
    ``itl_milliseconds``: the objective, in the engines' time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    roles = [wire.Role.PREFILL] * prefill + [wire.Role.DECODE] * decode
    ports = free_ports(4 * len(roles) + 2)
    router_port, admin_port = ports[:2]
    endpoints = []
    with ExitStack() as processes:
        started = []
        for index, role in enumerate(roles):
            port, side_channel, events, replay = ports[2 + 4 * index : 6 + 4 * index]
            publisher = _events_config(f"engine-{index}", events, replay) if kv_events else []
            process = processes.enter_context(_process(
                ["paceline_worker.emulator", "--host", "127.0.0.1", "--port", str(port), "--model", SERVED_NAME,
                 "--profile", profile, "--speed", str(speed), "--kv-transfer-config", CONNECTOR, *publisher,
                 *(["--enable-faults"] if faults else [])],
                folder / f"engine-{index}.log",
                {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_channel)},
            ))  # fmt: skip
            started.append((f"http://127.0.0.1:{port}", process))
            endpoints.append(
                wire.EngineEndpoint(
                    name=f"engine-{index}", host="127.0.0.1", port=port, role=role,
                    state=wire.EngineState.READY, start_id=str(process.pid),
                    kv_events=f"tcp://127.0.0.1:{events}" if kv_events else None,
                    kv_replay=f"tcp://127.0.0.1:{replay}" if kv_events else None,
                )
            )  # fmt: skip
        for url, process in started:
            wait_for(f"{url}/health", process)
        fleet = folder / "fleet.json"
        fleet.write_bytes(wire.encode(wire.Fleet(version=1, engines=tuple(endpoints))))
        config = wire.RouterConfig(
            deployment="bench", namespace="default", served_names=(SERVED_NAME,),
            # In time of this machine: engines that run twice as fast are to be twice as quick.
            objective=wire.Objective(
                ttft_milliseconds=round(TTFT_MILLISECONDS / speed), itl_milliseconds=round(itl_milliseconds / speed)
            ),
            admission=wire.Admission(
                max_queue_seconds=max(1, round(MAX_QUEUE_SECONDS / speed)), late=late,
                max_running_per_engine=max_running_per_engine,
            ),
            queue=wire.Queue(max_late_seconds=max(1, round(MAX_QUEUE_SECONDS / speed))),
            disaggregated=bool(prefill and decode), engine_profile=profile, local_prefill_tokens=local_prefill_tokens,
            engine_speed=speed, tokenizer=tokenizer, placement=wire.PlacementWeights(cache_percent=cache_percent),
            output_health=output_health or wire.OutputHealth(mode=wire.WatchMode.OFF, slow_engines=wire.WatchMode.OFF),
            hedging=hedging,
        )  # fmt: skip
        router = processes.enter_context(_process(
            ["paceline_worker.router", "--host", "127.0.0.1", "--port", str(router_port),
             "--admin-port", str(admin_port), "--fleet-file", str(fleet)],
            folder / "router.log",
            {"PACELINE_ROUTER_CONFIG": wire.encode(config).decode()},
        ))  # fmt: skip
        admin_url = f"http://127.0.0.1:{admin_port}"
        wait_for(f"{admin_url}/readyz", router)
        yield Stack(f"http://127.0.0.1:{router_port}", admin_url, router.pid, tuple(url for url, _ in started))
