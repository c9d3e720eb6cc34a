"""Two real engines and a router for the tests of this folder, started when the first test needs them."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.api import wire
from tests.processes import free_ports
from tests.vllm import tiny_model
from tests.vllm.engines import MAX_MODEL_LEN, MODEL, EnginePair, EngineProcess, RouterProcess

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("vllm") is not None:
        return
    skip = pytest.mark.skip(reason="vLLM is not installed in this environment; run `make test-vllm`")
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model's checkpoint."""
    return tiny_model.make(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def engine_processes(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnginePair]:
    """Both engines, not yet started."""
    logs = tmp_path_factory.mktemp("engines")
    pair = EnginePair(EngineProcess("engine-a", model, logs), EngineProcess("engine-b", model, logs))
    yield pair
    for engine in (pair.a, pair.b):
        if engine.running:
            os.kill(engine.pid, signal.SIGTERM)
    for engine in (pair.a, pair.b):
        if engine.process is not None:
            engine.stop()


@pytest.fixture
def pair(engine_processes: EnginePair) -> EnginePair:
    """Both engines, ready, and acquainted with each other."""
    engine_processes.ensure_running(engine_processes.a, engine_processes.b)
    engine_processes.ensure_met()
    return engine_processes


@pytest.fixture
def engine_a(engine_processes: EnginePair) -> EngineProcess:
    """The first of them, ready, for a test that needs no other."""
    engine_processes.ensure_running(engine_processes.a)
    return engine_processes.a


@pytest.fixture
def engine_b(engine_processes: EnginePair) -> EngineProcess:
    """The second of them, likewise."""
    engine_processes.ensure_running(engine_processes.b)
    return engine_processes.b


@pytest.fixture(scope="session")
def router_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RouterProcess]:
    """The router with an empty fleet."""
    directory = tmp_path_factory.mktemp("router")
    port, admin = free_ports(2)
    config = wire.RouterConfig(
        deployment="tiny",
        namespace="test",
        served_names=(MODEL,),
        objective=wire.Objective(ttft_milliseconds=10_000, itl_milliseconds=1_000),
        max_model_len=MAX_MODEL_LEN,
        local_prefill_tokens=0,
        # Two engines, this process and the router share two cores: an engine's server may be kept off them for seconds.
        timeouts=wire.Timeouts(connect_milliseconds=30_000),
    )
    fleet_file = directory / "fleet.json"
    fleet_file.write_bytes(wire.encode(wire.Fleet(version=0)))
    flags = ["--host", "127.0.0.1", "--port", str(port), "--admin-port", str(admin), "--fleet-file", str(fleet_file)]
    flags += ["--check-seconds", "30"]
    with (directory / "router.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "paceline_worker.router", *flags],
            env={**os.environ, "PACELINE_ROUTER_CONFIG": wire.encode(config).decode()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    yield RouterProcess(process, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}", fleet_file)
    process.terminate()
    process.wait(60)


@pytest.fixture
def router(router_process: RouterProcess, pair: EnginePair) -> RouterProcess:
    """The router: engine A computes prompts, engine B answers."""
    router_process.assign(pair.a.endpoint(wire.Role.PREFILL), pair.b.endpoint(wire.Role.DECODE))
    return router_process
