from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import kopf
import pytest
from kopf._cogs.structs.references import Insights

from paceline.controller import operator as module
from paceline.controller.operator import _follow_edges, _stop_when_blind
from paceline.controller.settings import OperatorSettings


class Listener:
    """What kopf's side of the operator tells the other one."""

    def __init__(self) -> None:
        self.missed = 0

    def events_missed(self) -> None:
        self.missed += 1


async def test_when_kopf_gives_up_it_is_started_again_and_everything_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[dict[str, Any]] = []

    async def fails_twice(**settings: Any) -> None:
        starts.append(settings)
        if len(starts) < 3:
            raise RuntimeError("404 page not found")

    monkeypatch.setattr(module, "run_kopf", fails_twice)
    monkeypatch.setattr(module, "RESTART_SECONDS", 0.0)
    listener: Any = Listener()
    settings = OperatorSettings(identity="one", namespace="mine")
    stop = asyncio.Event()
    await _follow_edges(listener, lambda: kopf.ConnectionInfo(server="x"), settings, kopf.OperatorSettings(), stop)
    assert len(starts) == 3
    assert listener.missed == 2
    assert (starts[0]["namespaces"], starts[0]["clusterwide"]) == (["mine"], False)


async def test_it_is_not_started_again_after_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = asyncio.Event()

    async def fails(**_: Any) -> None:
        stop.set()
        raise RuntimeError("in the middle of the end")

    monkeypatch.setattr(module, "run_kopf", fails)
    monkeypatch.setattr(module, "RESTART_SECONDS", 0.0)
    listener: Any = Listener()
    settings = OperatorSettings(identity="one")
    async with asyncio.timeout(60):
        await _follow_edges(listener, lambda: kopf.ConnectionInfo(server="x"), settings, kopf.OperatorSettings(), stop)
    assert stop.is_set()


async def test_a_signal_while_no_kopf_runs_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(**_: Any) -> None:
        asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), signal.SIGTERM)
        raise RuntimeError("404 page not found")

    monkeypatch.setattr(module, "run_kopf", fails)
    monkeypatch.setattr(module, "RESTART_SECONDS", 60.0)
    listener: Any = Listener()
    settings = OperatorSettings(identity="one")
    try:
        async with asyncio.timeout(60):
            await _follow_edges(
                listener, lambda: kopf.ConnectionInfo(server="x"), settings, kopf.OperatorSettings(), asyncio.Event()
            )
    finally:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)


async def test_kopf_is_started_again_when_it_watches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[str] = []
    stop = asyncio.Event()

    async def blind_at_first(*, insights: Insights, stop_flag: asyncio.Event, **_: Any) -> None:
        if starts:
            insights.watched_resources.add(kopf.Resource("paceline.dev", "v1alpha1", "modeldeployments"))
        starts.append("blind" if not starts else "sees")
        insights.ready_resources.set()
        await stop_flag.wait()

    monkeypatch.setattr(module, "run_kopf", blind_at_first)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    listener: Any = Listener()
    settings = OperatorSettings(identity="one")
    edges = asyncio.create_task(
        _follow_edges(listener, lambda: kopf.ConnectionInfo(server="x"), settings, kopf.OperatorSettings(), stop)
    )
    await asyncio.sleep(0.5)
    assert starts == ["blind", "sees"]
    assert listener.missed == 1
    stop.set()
    async with asyncio.timeout(60):
        await edges
    assert starts == ["blind", "sees"]


async def test_kopf_that_still_asks_what_there_is_is_not_taken_for_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    stop, stop_kopf = asyncio.Event(), asyncio.Event()
    looks = asyncio.create_task(_stop_when_blind(Insights(), stop, stop_kopf))
    await asyncio.sleep(0.2)
    assert not stop_kopf.is_set()
    stop.set()
    await looks
    assert stop_kopf.is_set()
