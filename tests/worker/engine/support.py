"""Engine configurations by keyword, and the worker program as a process over a fake vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from paceline.api import wire
from paceline_worker.engine.settings import Backend, NodeGroup, Pod, Settings

FAKE_VLLM = Path(__file__).parent / "fake_vllm"


def engine_config(**changes: Any) -> wire.EngineConfig:
    """A GPU engine of a small model, with fields changed."""
    config = wire.EngineConfig(
        deployment="chat",
        namespace="prod",
        model="org/model-8b",
        served_names=("model-8b",),
        source=wire.ModelSource(kind=wire.SourceKind.HUGGING_FACE, reference="org/model-8b"),
        accelerators=wire.Accelerators(product="H200", count=1),
    )
    return msgspec.structs.replace(config, **changes)


def engine_settings(group: NodeGroup | None = None, **changes: Any) -> Settings:
    """Settings around :func:`engine_config`."""
    pod = Pod(name="chat-engine-0", namespace="prod", ip="10.0.0.7")
    return Settings(config=engine_config(**changes), pod=pod, group=group or NodeGroup(), backend=Backend.VLLM)


@dataclass
class Program:
    """The worker program as a process."""

    process: asyncio.subprocess.Process
    api: str
    admin: str
    pids_file: Path
    last_word: Path
    """What the kubelet would find."""

    async def state(self) -> tuple[int, dict[str, Any]]:
        """Status and body of ``/readyz``; status 0 when nobody answers."""
        async with httpx.AsyncClient(timeout=5) as client:
            try:
                answer = await client.get(f"{self.admin}/readyz")
            except httpx.TransportError:
                return 0, {}
        return answer.status_code, answer.json()

    async def until(self, condition: Callable[[int, dict[str, Any]], bool]) -> tuple[int, dict[str, Any]]:
        """Ask ``/readyz`` until it answers as wanted. Fails when the program ends first."""
        while True:
            status, body = await self.state()
            if condition(status, body):
                return status, body
            if self.process.returncode is not None:
                raise AssertionError(f"the worker ended with {self.process.returncode}: {await self.output()}")
            await asyncio.sleep(0.02)

    async def ready(self) -> None:
        """Wait until it may get work."""
        await self.until(lambda status, _: status == 200)

    async def post(self, path: str) -> None:
        """Tell the fake vLLM something; it may die of it."""
        async with httpx.AsyncClient(timeout=5) as client:
            try:
                await client.post(f"{self.api}{path}")
            except httpx.TransportError:
                return

    async def output(self) -> str:
        """Everything that it printed, once it has ended."""
        assert self.process.stdout is not None
        return (await self.process.stdout.read()).decode()

    def descendants(self) -> list[int]:
        """Ids of the fake vLLM and of its child."""
        return [int(pid) for pid in self.pids_file.read_text().split()]


Start = Callable[..., Awaitable[Program]]
