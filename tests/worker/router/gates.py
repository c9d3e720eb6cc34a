"""A gate before engines that are only told of, and requests that ask it for places."""

from __future__ import annotations

import asyncio

from paceline.api import wire
from paceline.policy.routing.cost import RequestView
from paceline.policy.routing.fleet import EngineModel, NominalModel
from paceline_worker.router.fleet import Fleet
from paceline_worker.router.gate import Gate
from paceline_worker.router.places import Place
from paceline_worker.router.settings import placement_settings
from paceline_worker.router.yielding import Guest
from tests.worker.router.fakes import config

VIEW = RequestView(prompt_tokens=10)


class Ask:
    """A request that always looks the same."""

    def __init__(self, view: RequestView, held_bytes: int = 1000, *, begun: bool = False) -> None:
        self._view = view
        self.begun = begun
        self.claims = view.priority >= 0
        self.guest: Guest | None = None
        self.held_bytes = held_bytes
        self.priority = view.priority

    def view(self) -> RequestView:
        return self._view

    def decided(self, view: RequestView, engines: object, placement: object) -> None:
        """Nothing to do."""


class Bench:
    def __init__(
        self,
        tenancy: wire.Tenancy | None = None,
        model: EngineModel | None = None,
        order: wire.QueueOrder = wire.QueueOrder.DEADLINE,
        **admission: int | wire.Late,
    ) -> None:
        limits = wire.Admission(**({"max_running_per_engine": 1, "max_queued_requests": 10_000} | admission))  # type: ignore[arg-type]
        settings = config(admission=limits, tenancy=tenancy, queue=wire.Queue(order=order))
        self.fleet = Fleet(on_change=lambda: None, on_gone=lambda _: None)
        model = model or NominalModel()
        self.gate = Gate(self.fleet, placement_settings(settings, model), model, settings, lambda: 0.0)

    def engines(self, *names: str, prefill: tuple[str, ...] = ()) -> None:
        role = wire.Role.DECODE if prefill else wire.Role.BOTH
        roles = [*((name, role) for name in names), *((name, wire.Role.PREFILL) for name in prefill)]
        endpoint = {"host": "h", "port": 1, "state": wire.EngineState.READY, "start_id": "1"}
        engines = tuple(wire.EngineEndpoint(name=name, role=role, **endpoint) for name, role in roles)  # type: ignore[arg-type]
        self.fleet.apply(wire.Fleet(version=1, engines=engines))
        self.gate.wake()

    async def waiting(self, view: RequestView = VIEW) -> asyncio.Task[Place]:
        task = asyncio.create_task(self.gate.place(Ask(view)))
        await asyncio.sleep(0)
        return task
