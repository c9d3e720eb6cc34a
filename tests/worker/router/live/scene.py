"""A live page over a fleet and counters that a test sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paceline.api import wire
from paceline.clock import VirtualClock
from paceline_worker.router.fleet import Fleet
from paceline_worker.router.live.page import LivePage
from paceline_worker.router.live.settings import LiveSettings
from paceline_worker.router.metrics import Metrics
from paceline_worker.router.slo import SloCounts


def engine(name: str, role: str = "decode", state: str = "ready") -> wire.EngineEndpoint:
    return wire.EngineEndpoint(
        name=name, host="127.0.0.1", port=1, role=wire.Role(role), state=wire.EngineState(state), start_id="1"
    )


class Scene:
    """A page over a fleet that the test sets."""

    def __init__(self, decisions: Path | None = None) -> None:
        objective = wire.Objective(ttft_milliseconds=2000, itl_milliseconds=50)
        config = wire.RouterConfig(deployment="chat", namespace="team", served_names=("m",), objective=objective)
        self.fleet = Fleet(on_change=lambda: None, on_gone=lambda _: None)
        self.metrics = Metrics(tuple)
        self.slo = SloCounts(config)
        self.clock = VirtualClock(epoch=1_000)
        self.page = LivePage(
            LiveSettings(decisions), config, self.fleet, self.metrics, self.slo, self.clock,
            running=lambda: 5, queued=lambda: 2,
        )  # fmt: skip
        self._version = 0

    def engines(self, *endpoints: wire.EngineEndpoint) -> None:
        self._version += 1
        self.fleet.apply(wire.Fleet(version=self._version, engines=endpoints))
        self.page.fleet_changed()

    def changes(self) -> list[str]:
        state: Any = self.page.state()
        return [f"{change['engine']} {change['text']}" for change in state["changes"]]
