"""The worker program over real vLLM: readiness, drain and crash. Tests here end the engines that they are given."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys

import httpx
import pytest

from tests.contract.engines import metric
from tests.processes import gone
from tests.vllm.engines import MODEL, EngineProcess, processes_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

TOKENS = 300


def test_processes_of_cpu_engines_sleep_where_they_would_yield() -> None:
    """vLLM loads our plugin by itself, and what that changes is still there."""
    code = (
        "from vllm.distributed import utils\n"
        "from vllm.plugins import load_general_plugins\n"
        "assert utils.USE_SCHED_YIELD\n"
        "load_general_plugins()\n"
        "assert not utils.USE_SCHED_YIELD\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


async def test_a_ready_engine_has_answered_a_real_request(engine_a: EngineProcess):
    assert await metric(engine_a.contract(), "vllm:request_success_total") >= 1
    async with httpx.AsyncClient(trust_env=False) as client:
        state = (await client.get(f"{engine_a.admin}/state")).json()
        metrics = (await client.get(f"{engine_a.admin}/metrics")).text
    assert state["state"] == "ready"
    assert state["inFlight"] == 0
    assert state["pid"] in processes_of(engine_a.pid)
    assert "paceline_engine_ready 1.0" in metrics


async def test_sigterm_lets_a_stream_in_flight_finish_and_exits_0(engine_a: EngineProcess):
    engine = engine_a
    processes = list(processes_of(engine.pid))
    assert len(processes) >= 3
    body = {
        "model": MODEL, "prompt": "Go on and on:", "max_tokens": TOKENS, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    async with (
        httpx.AsyncClient(timeout=120, trust_env=False) as client,
        client.stream("POST", f"{engine.api}/v1/completions", json=body) as stream,
    ):
        lines = (line async for line in stream.aiter_lines() if line)
        assert (await anext(lines)).startswith("data: {")
        os.kill(engine.pid, signal.SIGTERM)
        rest = [line async for line in lines]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2].removeprefix("data: "))["usage"]["completion_tokens"] == TOKENS
        # Not ready any more, or gone already.
        assert (await asyncio.to_thread(engine.readiness))[0] != 200
    assert await asyncio.to_thread(engine.stop) == 0
    await gone(processes)


async def test_a_crash_of_the_engine_core_makes_it_unready_and_ends_the_worker(engine_b: EngineProcess):
    engine = engine_b
    processes = processes_of(engine.pid)
    (core,) = [pid for pid, name in processes.items() if name.startswith("VLLM::EngineCore")]
    os.kill(core, signal.SIGKILL)
    while (await asyncio.to_thread(engine.readiness))[0] == 200:  # noqa: ASYNC110  # another process's news
        await asyncio.sleep(0.02)
    assert engine.process is not None
    assert await asyncio.to_thread(engine.process.wait) == 4
    await gone(processes)
    said = engine.log.read_text().splitlines()[-1]
    assert said.startswith("error: vLLM ended with ")
    assert "while it was serving" in said
