"""Requests while something happens, and what became of the pods meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import httpx

from paceline.api import labels
from tests.kube.client import Manifest, condition
from tests.kube.scene import Scene

PROMPTS = ("Once upon a time", "The quick brown fox " * 40, "It was a dark and stormy night. " * 20)


@dataclass
class Outcome:
    """Of all requests so far."""

    completed: int = 0
    failed: list[str] = field(default_factory=list)


class Traffic:
    """``streams`` streams at a time, one after the other, to one router, within a ``with`` block.

    Emulated engines answer a prompt with the same text wherever it is computed, so a text that differs from the first
    one is a failure, as is a stream without its end.
    """

    def __init__(self, scene: Scene, *, streams: int = 4, max_tokens: int = 60) -> None:
        self.outcome = Outcome()
        self._url = f"http://{scene.router()}:8000/v1/completions"
        self._bodies = [scene.body(prompt=prompt, max_tokens=max_tokens, stream=True) for prompt in PROMPTS]
        self._streams = streams
        self._texts: dict[int, str] = {}
        self._stop = threading.Event()
        self._enough = threading.Condition()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(120)

    def wait_for_more(self, count: int, *, seconds: float = 180) -> None:
        """Wait until so many more streams have ended well."""
        with self._enough:
            goal = self.outcome.completed + count
            reached = self._enough.wait_for(lambda: self.outcome.completed >= goal or self.outcome.failed, seconds)
        assert reached, f"only {self.outcome.completed} of {goal} streams ended"
        assert self.outcome.failed == []

    async def _run(self) -> None:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            await asyncio.gather(*(self._send(client, number) for number in range(self._streams)))

    async def _send(self, client: httpx.AsyncClient, number: int) -> None:
        while not self._stop.is_set():
            which = number % len(self._bodies)
            number += 1
            wrong = await self._one(client, which)
            with self._enough:
                if wrong:
                    self.outcome.failed.append(wrong)
                else:
                    self.outcome.completed += 1
                self._enough.notify_all()

    async def _one(self, client: httpx.AsyncClient, which: int) -> str | None:
        """What is wrong with the answer; None if nothing is."""
        text, ended = [], False
        try:
            async with client.stream("POST", self._url, json=self._bodies[which]) as answer:
                if answer.status_code != 200:
                    return f"{answer.status_code} {(await answer.aread()).decode()[:300]}"
                async for line in answer.aiter_lines():
                    if line == "data: [DONE]":
                        ended = True
                    elif line.startswith("data: "):
                        document = json.loads(line[6:])
                        if "error" in document:
                            return f"error in the stream: {line[:300]}"
                        text.extend(choice["text"] for choice in document["choices"])
        except httpx.TransportError as error:
            return f"{type(error).__name__}: {error}"
        if not ended:
            return "a stream without its end"
        whole = "".join(text)
        if self._texts.setdefault(which, whole) != whole:
            return f"another text for the same prompt: {whole[:60]!r} and not {self._texts[which][:60]!r}"
        return None


class PodHistory:
    """What was seen of the engines of a deployment while the ``with`` block ran, in order."""

    def __init__(self, scene: Scene) -> None:
        self._kube = scene.kube
        self._path = f"/api/v1/namespaces/{scene.namespace}/pods"
        self._selector = f"{labels.DEPLOYMENT}={scene.name},{labels.COMPONENT}={labels.COMPONENT_ENGINE}"
        self._stages: dict[str, list[str]] = {}
        self._ready: dict[str, bool] = {}
        self.least_ready = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="pod history", daemon=True)

    def __enter__(self) -> Self:
        listed = self._kube.ok("GET", self._path, labelSelector=self._selector)
        self._version = listed["metadata"]["resourceVersion"]
        for pod in listed["items"]:
            self._note(pod, gone=False)
        self.least_ready = sum(self._ready.values())
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def gone(self) -> dict[str, list[str]]:
        """Stages of the pods that went: ``drain`` was asked for, the gate was ``shut``, it was ``deleted``."""
        return {name: stages for name, stages in self._stages.items() if "deleted" in stages}

    def _follow(self) -> None:
        while not self._stop.is_set():
            query = {"watch": "true", "resourceVersion": self._version, "labelSelector": self._selector}
            timeout = httpx.Timeout(5, read=2)
            with suppress(httpx.TransportError):  # silence of two seconds among them
                self._watch(query, timeout)

    def _watch(self, query: dict[str, str], timeout: httpx.Timeout) -> None:
        with self._kube.http.stream("GET", self._path, params=query, timeout=timeout) as answer:
            for line in answer.iter_lines():
                event = json.loads(line)
                self._version = event["object"]["metadata"]["resourceVersion"]
                self._note(event["object"], gone=event["type"] == "DELETED")
                if self._stop.is_set():
                    return

    def _note(self, pod: Manifest, *, gone: bool) -> None:
        name, metadata = pod["metadata"]["name"], pod["metadata"]
        stages = self._stages.setdefault(name, [])
        now = {
            "drain": metadata.get("annotations", {}).get(labels.DRAIN) == "true",
            "shut": condition(pod, labels.SERVING_GATE).get("status") == "False",
            "deleted": gone or "deletionTimestamp" in metadata,
        }
        stages.extend(stage for stage, reached in now.items() if reached and stage not in stages)
        self._ready[name] = condition(pod, "Ready").get("status") == "True" and not now["deleted"] and not now["drain"]
        self.least_ready = min(self.least_ready, sum(self._ready.values()))
