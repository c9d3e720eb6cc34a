"""What the router believes of its engines: who they are, whether they answer, and the work they have.

Fed by the fleet file, by health checks and by the requests themselves; read by the gate, which places requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from paceline.api import wire
from paceline.policy.routing.backlog import Backlog
from paceline.policy.routing.fleet import EngineView
from paceline_worker.http.upstream import Address
from paceline_worker.router.health import Health

VIEW_SECONDS: Final = 0.01
"""How old a view of a busy engine may be."""
MEMORY: Final = 0.9
"""Weight of the past in what a typical prefill takes."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What an engine last said of itself."""

    requests: int
    """Running and waiting there."""
    kv_usage: float
    own: int
    """How many of those requests were this router's own at that time."""
    adapters: frozenset[str] | None = None
    """LoRA adapters at work; None when it does not say."""


class Engine:
    """One engine between its start and its end. A restarted engine is another one."""

    def __init__(self, endpoint: wire.EngineEndpoint) -> None:
        self.endpoint = endpoint
        self.address: Address = (endpoint.host, endpoint.port)
        self.host_header = f"{endpoint.host}:{endpoint.port}".encode()
        self.health = Health()
        self.suspended: str | None = None
        """Why it gets no new work for a while although it answers; None when it does."""
        self.running = 0
        self.prefilling = 0
        self.context_tokens = 0
        self.backlog = Backlog()
        """Prompts of this router that it computes or is to compute."""
        self.rests_until = 0.0
        """While it finishes streams of its former role: when it may get a prompt again."""
        self.owed_until = 0.0
        """While it decodes: when its streams have had the steps that they are owed for short prompts."""
        self.typical_prefill_seconds = 0.0
        """Of this router's remote prefills there, the later ones counting more."""
        self._typical_context = 0.0
        """Of this router's requests there: the mean of those that it has, or had last."""
        self.reported = Reported(0, 0.0, 0)
        self.gone = False
        """Not in the fleet any more; streams that run there go on."""
        self.prefill_deadlines: set[asyncio.Timeout] = set()
        """Of remote prefills in flight, to be cut short when the engine is found dead."""
        self._view: EngineView | None = None
        self._viewed_at = 0.0

    @property
    def backlog_seconds(self) -> float:
        """Prefill work of this router there that is not done."""
        return self.backlog.given

    @property
    def name(self) -> str:
        """Pod name."""
        return self.endpoint.name

    @property
    def identity(self) -> str:
        """Another one after a restart."""
        return f"{self.endpoint.name}/{self.endpoint.start_id}"

    @property
    def usable(self) -> bool:
        """Whether it may get new work."""
        return self.serves and self.suspended is None

    @property
    def serves(self) -> bool:
        """Whether it could do new work."""
        return self.endpoint.state is wire.EngineState.READY and self.health.usable and not self.gone

    @property
    def finishing(self) -> bool:
        """Whether it has become a prefill engine and still runs streams of its former role."""
        return self.running > 0 and self.endpoint.role is wire.Role.PREFILL

    def view(self, now: float) -> EngineView:
        """The frozen value that placement sees; made anew after :meth:`changed`, and as its work goes on."""
        rests_until = self.rests_until if self.finishing else 0.0
        owed_until = self.owed_until if self.endpoint.role is wire.Role.DECODE else 0.0
        goes_on = self.backlog or max(rests_until, owed_until) > self._viewed_at
        if self._view is None or (goes_on and now - self._viewed_at > VIEW_SECONDS):
            self._viewed_at = now
            endpoint, reported = self.endpoint, self.reported
            others = max(0, reported.requests - reported.own)
            # What other routers sent to a prefill engine are prompts, about as long as ours.
            prompts = others if endpoint.role is wire.Role.PREFILL else 0
            work = self.backlog.left(now) + prompts * self.typical_prefill_seconds
            if self.running:
                self._typical_context = self.context_tokens / self.running
            self._view = EngineView(
                name=endpoint.name,
                role=endpoint.role,
                revision=endpoint.revision,
                usable=self.usable,
                running=self.running + others,
                context_tokens=self.context_tokens + int(others * self._typical_context),
                prefill_backlog_seconds=max(work, rests_until - now),
                owed_seconds=max(0.0, owed_until - now),
                prefilling=self.prefilling,
                kv_usage=reported.kv_usage,
                zone=endpoint.zone,
                node=endpoint.node,
                adapters=reported.adapters,
            )
        return self._view

    def changed(self) -> None:
        """Something that the view shows is different now."""
        self._view = None

    def cut_prefills(self) -> None:
        """Stop waiting for remote prefills: their requests go on without."""
        now = asyncio.get_running_loop().time()
        for deadline in self.prefill_deadlines:
            deadline.reschedule(now)


class Lease:
    """Work that one request gives to one engine, accounted for from its placement until :meth:`release`.

    Times are seconds on the loop's clock; ``backlog`` is its prefill there, in seconds.
    """

    __slots__ = ("_context", "_prefilling", "_running", "engine", "prompt_seconds")

    def __init__(
        self,
        engine: Engine,
        now: float,
        *,
        running: int = 0,
        prefilling: int = 0,
        context: int = 0,
        backlog: float = 0.0,
    ) -> None:
        self.engine = engine
        self._running = running
        self._prefilling = prefilling
        self._context = context
        self.prompt_seconds = backlog
        if prefilling:
            typical = engine.typical_prefill_seconds or backlog
            engine.typical_prefill_seconds = MEMORY * typical + (1 - MEMORY) * backlog
        if backlog:
            engine.backlog.add(self, backlog, now)
        self._add(1)

    def _add(self, sign: int) -> None:
        engine = self.engine
        engine.running += sign * self._running
        engine.prefilling += sign * self._prefilling
        engine.context_tokens += sign * self._context
        engine.changed()

    def prompt_done(self, now: float) -> None:
        """The prompt is computed; the rest of the work goes on."""
        self.engine.backlog.done(self, now)
        self.engine.changed()

    def release(self, now: float) -> bool:
        """The work is over. May be called again; True the first time."""
        if not (self._running or self._prefilling):
            return False
        self.engine.backlog.done(self, now)
        self._add(-1)
        self._running = self._prefilling = self._context = 0
        return True


class Fleet:
    """All engines that the router knows."""

    def __init__(self, on_change: Callable[[], None], on_gone: Callable[[Engine], None]) -> None:
        self._on_change = on_change
        self._on_gone = on_gone
        self._engines: dict[str, Engine] = {}
        self.version = 0

    def __iter__(self) -> Iterator[Engine]:
        return iter(self._engines.values())

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def asleep(self) -> bool:
        """Whether no engine is there, or all still start."""
        return all(engine.endpoint.state is wire.EngineState.STARTING for engine in self)

    @property
    def engines(self) -> Mapping[str, Engine]:
        """By name."""
        return self._engines

    def apply(self, fleet: wire.Fleet) -> None:
        """Take over a new description. Engines that it does not name get no more work."""
        described = {endpoint.name: endpoint for endpoint in fleet.engines}
        for name in [name for name in self._engines if name not in described]:
            self._drop(self._engines.pop(name))
        for name, endpoint in described.items():
            known = self._engines.get(name)
            if known is None or _is_another(known.endpoint, endpoint):
                if known is not None:
                    self._drop(known)
                self._engines[name] = Engine(endpoint)
            elif known.endpoint != endpoint:
                known.endpoint = endpoint
                known.changed()
        self.version = fleet.version
        self._on_change()

    def health_changed(self, engine: Engine) -> None:
        """An engine became usable, or stopped being so."""
        engine.changed()
        if not engine.health.usable:
            engine.cut_prefills()
        self._on_change()

    def suspend(self, engine: Engine, reason: str | None) -> None:
        """Give it no new work, for ``reason``; with None, give it some again."""
        engine.suspended = reason
        engine.changed()
        self._on_change()

    def _drop(self, engine: Engine) -> None:
        engine.gone = True
        engine.changed()
        self._on_gone(engine)


def _is_another(old: wire.EngineEndpoint, new: wire.EngineEndpoint) -> bool:
    return (old.start_id, old.host, old.port) != (new.start_id, new.host, new.port)
