"""The router as a process: what it says when it can't start, how it ends, and that it never outlives its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from paceline.api import wire
from paceline.errors import ConfigError
from paceline.planning.calibration import entry_text
from paceline.policy.scaling.profiles import get_profile
from paceline_worker.router.settings import read
from tests.processes import free_ports
from tests.worker.router.fakes import MODEL, FakeEngine, config

CONFIG = wire.encode(config()).decode()


@asynccontextmanager
async def process(tmp_path: Path, port: int, admin: int, parent_fd: int | None = None) -> AsyncIterator[Process]:
    environment = os.environ | {"PACELINE_ROUTER_CONFIG": CONFIG}
    if parent_fd is not None:
        environment["PACELINE_PARENT_FD"] = str(parent_fd)
    one = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "paceline_worker.router", "--host", "127.0.0.1", "--port", str(port),
        "--admin-port", str(admin), "--fleet-file", str(tmp_path / "fleet.json"),
        env=environment, stderr=PIPE, pass_fds=() if parent_fd is None else (parent_fd,),
    )  # fmt: skip
    try:
        yield one
    finally:
        if one.returncode is None:
            one.kill()
        await one.communicate()


async def ready(client: httpx.AsyncClient, admin: int) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                if (await client.get(f"http://127.0.0.1:{admin}/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.02)


async def test_sigterm_lets_requests_finish_and_ends_with_0(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def wait(engine: FakeEngine, request: object, response: object) -> None:
        engine.hanging.set()
        await go.wait()
        response.send(200, b'{"ok":true}')  # type: ignore[attr-defined]

    engine = FakeEngine("a", behaviour=wait)
    await engine.start()
    (tmp_path / "fleet.json").write_bytes(wire.encode(wire.Fleet(version=1, engines=(engine.endpoint,))))
    port, admin = free_ports(2)
    async with process(tmp_path, port, admin) as router, httpx.AsyncClient(timeout=20) as client:
        await ready(client, admin)
        body = {"model": MODEL, "prompt": "x"}
        request = asyncio.create_task(client.post(f"http://127.0.0.1:{port}/v1/completions", json=body))
        await asyncio.wait_for(engine.hanging.wait(), 60)
        router.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            while (await client.get(f"http://127.0.0.1:{admin}/readyz")).status_code == 200:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        go.set()
        assert (await request).json() == {"ok": True}
        assert await asyncio.wait_for(router.wait(), 60) == 0
    await engine.stop()


async def test_it_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    async with process(tmp_path, *free_ports(2), reading) as router:
        os.close(reading)
        assert router.stderr is not None
        assert b"listens on" in await asyncio.wait_for(_line_with(router.stderr, b"listens"), 60)
        os.close(writing)
        assert await asyncio.wait_for(router.wait(), 60) == 1


async def _line_with(stream: asyncio.StreamReader, part: bytes) -> bytes:
    while True:
        line = await stream.readline()
        if part in line or not line:
            return line


async def test_a_port_in_use_is_named_without_a_traceback(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with process(tmp_path, port, *free_ports(1)) as router:
            _, errors = await asyncio.wait_for(router.communicate(), 60)
            assert router.returncode == 2
    assert f"--port: 127.0.0.1:{port} can't be used" in errors.decode()
    assert "Traceback" not in errors.decode()


FLAGS = ["--port", "1", "--admin-port", "2", "--fleet-file", "f"]


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        (FLAGS, {}, "PACELINE_ROUTER_CONFIG is not set"),
        (FLAGS, {"PACELINE_ROUTER_CONFIG": "{"}, "PACELINE_ROUTER_CONFIG is not a valid RouterConfig"),
        (["--port", "99999", *FLAGS[2:]], {"PACELINE_ROUTER_CONFIG": CONFIG}, "--port: 99999 is not a port"),
        ([*FLAGS, "--check-seconds", "0"], {"PACELINE_ROUTER_CONFIG": CONFIG}, "--check-seconds: 0 is not allowed"),
        ([*FLAGS, "--check-seconds", "nan"], {"PACELINE_ROUTER_CONFIG": CONFIG}, "--check-seconds: nan is not"),
        (FLAGS, {"PACELINE_ROUTER_CONFIG": CONFIG, "PACELINE_PARENT_FD": "x"}, "PACELINE_PARENT_FD: x"),
        (
            FLAGS,
            {"PACELINE_ROUTER_CONFIG": wire.encode(config(engine_profile="abacus")).decode()},
            "engine profile 'abacus' is not known",
        ),
    ],
)
def test_settings_that_are_not_valid_are_named(flags: list[str], environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(flags, environment)


def test_the_threshold_for_local_prefill_comes_from_the_engine_model_unless_it_is_set() -> None:
    known = config(engine_profile="qwen3-32b-h200-tp2", local_prefill_tokens=None)
    settings = read(FLAGS, {"PACELINE_ROUTER_CONFIG": wire.encode(known).decode()})
    assert 16 < settings.placement.local_prefill_tokens < 4096
    assert read(FLAGS, {"PACELINE_ROUTER_CONFIG": CONFIG}).placement.local_prefill_tokens == 100


def test_the_engine_model_may_be_what_was_measured_here() -> None:
    quick = replace(get_profile("qwen3-32b-h200-tp2"), name="mine", prefill_token=1e-7)
    found = []
    for profile in ("qwen3-32b-h200-tp2", entry_text(quick)):
        known = config(engine_profile=profile, local_prefill_tokens=None)
        found.append(read(FLAGS, {"PACELINE_ROUTER_CONFIG": wire.encode(known).decode()}))
    assert found[1].placement.local_prefill_tokens > found[0].placement.local_prefill_tokens
