from __future__ import annotations

import asyncio
from typing import Any

import kopf
import pytest

from paceline.controller import operator as module
from paceline.controller.operator import _follow_edges
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

    monkeypatch.setattr(kopf, "operator", fails_twice)
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

    monkeypatch.setattr(kopf, "operator", fails)
    monkeypatch.setattr(module, "RESTART_SECONDS", 0.0)
    listener: Any = Listener()
    settings = OperatorSettings(identity="one")
    async with asyncio.timeout(5):
        await _follow_edges(listener, lambda: kopf.ConnectionInfo(server="x"), settings, kopf.OperatorSettings(), stop)
    assert stop.is_set()
