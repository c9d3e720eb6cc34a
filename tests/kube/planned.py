"""Deployments that the planner sizes, and loads that make it: open loops of streams, each with its whole answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any, Self

import aiohttp

from paceline.clock import WallClock
from paceline.local.load import LoadClient, LoadOptions, RequestResult
from paceline.traces.prompts import PromptMaker
from paceline.traces.record import TraceRequest
from tests.kube.client import Kube
from tests.kube.scene import Scene

MODEL = "Qwen/Qwen3-32B"
ACCELERATOR = {"product": "NVIDIA-H200", "count": 2}
GPUS = 2
"""Of one engine."""
SOON: dict[str, Any] = {
    "mode": "Auto",
    "intervalSeconds": 1,
    "demandWindowSeconds": 30,
    "scaleDownWindowSeconds": 5,
    "scaleDownWindowPolicy": "Fixed",
    "forecast": {"minHorizonSeconds": 1, "maxHorizonSeconds": 10},
}
"""Settings of somebody who can't wait."""


def planned(kube: Kube, namespace: str, name: str = "small", **scaling: Any) -> Scene:
    """Engines whose speed is known, one of each role, up to three; ``scaling`` on top of :data:`SOON`."""
    scene = Scene(kube, namespace, name)
    spec = scene.manifest["spec"]
    spec["model"] = {"name": MODEL}
    spec["engine"] = {"drainSeconds": 60, "startDeadlineSeconds": 60, "parallelism": {"tensor": 2}}
    spec["slo"] = {"ttftMilliseconds": 2000, "itlMilliseconds": 50}
    spec["pools"] = {
        role: {"minReplicas": 1, "maxReplicas": 3, "accelerator": dict(ACCELERATOR)} for role in ("prefill", "decode")
    }
    spec["scaling"] = {**SOON, **scaling}
    return scene


class Load:
    """``rate`` requests a second of one kind, for as long as the ``with`` block lasts, and their results."""

    def __init__(self, scene: Scene, *, rate: float, prompt: int, answer: int, seconds: float = 240.0) -> None:
        self._url = f"http://{scene.router()}:8000"
        self._model = scene.body()["model"]
        self._requests = [
            TraceRequest(arrival_seconds=number / rate, input_tokens=prompt, output_tokens=answer, blocks=())
            for number in range(int(seconds * rate))
        ]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)
        self._client: LoadClient | None = None
        self._began = threading.Event()
        self._stopping = False

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._began.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def cease(self) -> None:
        """Send no more."""
        self._stopping = True

    def stop(self) -> None:
        """Send no more, and wait for the answers to what was sent."""
        self.cease()
        self._thread.join(180)
        assert not self._thread.is_alive(), "answers are still missing"

    @property
    def results(self) -> list[RequestResult]:
        """Those that have ended."""
        return [] if self._client is None else [one for one in list(self._client.result.requests) if one.ended]

    @property
    def failed(self) -> list[str]:
        return [one.error for one in self.results if one.error is not None]

    async def _run(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=5)
        async with aiohttp.ClientSession(connector=connector) as session:
            options = LoadOptions(self._url, self._model)
            self._client = LoadClient(options, session=session, prompts=PromptMaker(), clock=WallClock())
            self._began.set()
            await self._client.run(self._until_stopped())  # type: ignore[arg-type]  # it only walks through them

    def _until_stopped(self) -> Iterator[TraceRequest]:
        for request in self._requests:
            if self._stopping:
                return
            yield request


def history(scene: Scene) -> list[dict[str, Any]]:
    """Decisions in the status, newest first."""
    return list(scene.status.get("scaling", {}).get("history", []))


def event_reasons(scene: Scene) -> list[str]:
    return [event["reason"] for event in scene.events()]


def seen(scene: Scene) -> Scene:
    """Wait until the planner sees."""
    scene.until_condition("MetricsAvailable", "True", seconds=180)
    return scene


def gpus(scene: Scene) -> int:
    """Accelerators that pods of engines hold, those on their way out too."""
    pods = scene.kube.pods(scene.namespace, f"paceline.dev/deployment={scene.name},paceline.dev/component=engine")
    return GPUS * sum(pod["status"].get("phase") not in {"Succeeded", "Failed"} for pod in pods)


class Watched:
    """Looks at something over and over for as long as the ``with`` block lasts, and keeps the largest."""

    def __init__(self, look: Callable[[], int], *, pause: float = 0.2) -> None:
        self.most = 0
        self.looks = 0
        self._look = look
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watched", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self._stop.wait(self._pause):
            self.most = max(self.most, self._look())
            self.looks += 1
