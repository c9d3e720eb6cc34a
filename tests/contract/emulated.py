"""Starts emulators as processes of their own: fixtures of the contract suite and of the emulator's tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.contract.engines import Engine
from tests.processes import free_ports

START_SECONDS = 180


@contextmanager
def emulator(log: Path, *flags: str, model: str = "emulated") -> Iterator[Engine]:
    """One emulator with cache events, replay and KV transfers, stopped at the end."""
    port, events, replay, side_channel = free_ports(4)
    endpoint = "tcp://127.0.0.1:{}".format
    kv_events = {
        "enable_kv_cache_events": True, "publisher": "zmq", "endpoint": endpoint(events),
        "replay_endpoint": endpoint(replay), "topic": f"kv@pod@{model}",
    }  # fmt: skip
    command = [
        sys.executable, "-m", "paceline_worker.emulator", "--host", "127.0.0.1", "--port", str(port),
        "--served-model-name", model, "--enable-prefix-caching", "--kv-events-config", json.dumps(kv_events),
        "--kv-transfer-config", '{"kv_connector":"NixlConnector","kv_role":"kv_both"}', *flags,
    ]  # fmt: skip
    side = {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1", "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_channel)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | side)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_healthy(url, process, log)
        yield Engine(url, kv_events=endpoint(events), kv_replay=endpoint(replay), pid=process.pid)
    finally:
        process.terminate()
        process.wait(timeout=10)


def wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when ``/health`` answers; fails with the log when the process ends or does not get there."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError(f"the emulator did not start:\n{log.read_text()}")
