from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from paceline.controller import watch as module
from paceline.controller.kinds import SERVICE
from paceline.controller.metrics import OperatorMetrics
from paceline.controller.refusals import ApiError
from paceline.controller.watch import WatchCache
from tests.controller.fakes import FakeApi


def service(name: str, port: int = 1) -> dict[str, Any]:
    manifest: dict[str, Any] = {"metadata": {"name": name, "namespace": "default"}, "spec": {"port": port}}
    return manifest


class Seen:
    """A cache that runs, and what it told."""

    def __init__(self, api: FakeApi) -> None:
        self.changes: list[tuple[int | None, int | None]] = []
        self.told = asyncio.Event()
        self.cache: WatchCache[int] = WatchCache(
            api,  # type: ignore[arg-type]
            SERVICE,
            namespace=None,
            selector="",
            keep=lambda raw: int(raw["spec"]["port"]),
            changed=self._changed,
            metrics=OperatorMetrics(),
        )

    def _changed(self, before: int | None, after: int | None) -> None:
        self.changes.append((before, after))
        self.told.set()

    async def until(self, *changes: tuple[int | None, int | None]) -> None:
        async with asyncio.timeout(60):
            while list(changes) != self.changes[-len(changes) :]:
                self.told.clear()
                await self.told.wait()


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
async def seen(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Seen]:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(module, "LONGEST_PAUSE_SECONDS", 0.01)
    one = Seen(api)
    api.put(SERVICE, service("first"))
    task = asyncio.create_task(one.cache.run())
    await one.cache.synced.wait()
    yield one
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_it_tells_what_is_there_and_then_what_changes(api: FakeApi, seen: Seen) -> None:
    api.put(SERVICE, service("second", 2))
    api.put(SERVICE, service("first", 3))
    api.remove(SERVICE, "default", "second")
    await seen.until((None, 1), (None, 2), (1, 3), (2, None))


async def test_it_tells_nothing_when_what_it_keeps_is_the_same(api: FakeApi, seen: Seen) -> None:
    api.put(SERVICE, service("first", 1))
    api.put(SERVICE, service("first", 2))
    await seen.until((None, 1), (1, 2))


async def test_what_was_deleted_while_the_watch_was_broken_is_noticed(api: FakeApi, seen: Seen) -> None:
    api.put(SERVICE, service("second", 2))
    await seen.until((None, 2))
    # Nobody tells: the watch is expired, and the log of changes with it.
    del api.objects[SERVICE.path("default", "second")]
    api.expire()
    await seen.until((2, None))


async def test_it_goes_on_after_a_server_that_refuses_and_says_why_until_then(api: FakeApi, seen: Seen) -> None:
    refused = ApiError("watch", "services", 500, "InternalError", "broken")
    heard = asyncio.Event()

    def refuse(verb: str, _: str) -> ApiError:
        # The second one: what became of the first has been noted by then.
        if seen.cache.trouble is not None:
            heard.set()
        return refused

    api.refusals.append(refuse)
    api.changed.set()
    await heard.wait()
    assert "broken" in (seen.cache.trouble or "")
    api.refusals.clear()
    api.put(SERVICE, service("first", 9))
    await seen.until((1, 9))
    assert seen.cache.trouble is None


async def test_the_answer_to_a_write_counts_at_once_and_an_older_event_does_not_undo_it(
    api: FakeApi, seen: Seen
) -> None:
    old = api.objects[SERVICE.path("default", "first")]
    seen.cache.put({**service("first", 7), "metadata": {**old["metadata"], "resourceVersion": "1000"}})
    api.put(SERVICE, service("first", 2))  # at version 2
    api.put(SERVICE, service("second", 5))
    await seen.until((1, 7), (None, 5))
    assert (7, 2) not in seen.changes
