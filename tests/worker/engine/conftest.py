"""Starts the worker program over a fake vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from paceline.api import wire
from tests.processes import free_ports
from tests.worker.engine.support import FAKE_VLLM, Program, Start, engine_config


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts the worker program over a fake vLLM; stops what is left of it."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    programs: list[Program] = []

    async def go(mode: str = "", backend: str = "vllm", pass_fds: tuple[int, ...] = (), **changes: Any) -> Program:
        api, admin, side, events, replay = free_ports(5)
        ports = wire.EnginePorts(api=api, admin=admin, kv_side_channel=side, kv_events=events, kv_replay=replay)
        source = wire.ModelSource(kind=wire.SourceKind.LOCAL, reference=str(model))
        accelerators = wire.Accelerators(count=0)
        settled = {"ports": ports, "source": source, "accelerators": accelerators, "drain_seconds": 30, **changes}
        config = engine_config(**settled)
        pids_file = tmp_path / f"pids-{len(programs)}"
        word = tmp_path / f"termination-log-{len(programs)}"
        word.touch()
        env = {
            **os.environ,
            "PYTHONPATH": str(FAKE_VLLM),
            "PACELINE_ENGINE_CONFIG": wire.encode(config).decode(),
            "PACELINE_BIND_HOST": "127.0.0.1",
            "PACELINE_ENGINE_BACKEND": backend,
            "POD_NAME": "engine-0",
            "POD_NAMESPACE": "test",
            "POD_IP": "127.0.0.1",
            "FAKE_VLLM": mode,
            "PACELINE_TERMINATION_LOG": str(word),
            "FAKE_VLLM_PIDS": str(pids_file),
            **({"PACELINE_PARENT_FD": str(pass_fds[0])} if pass_fds else {}),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "paceline_worker.engine",
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
        )
        bound = config.ports
        program = Program(process, f"http://127.0.0.1:{bound.api}", f"http://127.0.0.1:{bound.admin}", pids_file, word)
        programs.append(program)
        return program

    yield go
    for program in programs:
        if program.process.returncode is None:
            os.killpg(program.process.pid, signal.SIGKILL)
        await program.process.communicate()
