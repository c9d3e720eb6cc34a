"""Which engines a request gets as they are now, and what it takes on them. Knows nothing of those who wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from paceline.api import wire
from paceline.policy.routing.cost import RequestView
from paceline.policy.routing.cost import Settings as PlacementSettings
from paceline.policy.routing.crowding import StepShare, crowding
from paceline.policy.routing.fleet import EngineModel, EngineView
from paceline.policy.routing.pacing import owed_until, rest_seconds
from paceline.policy.routing.placement import Placement, choose, uncrowded
from paceline.policy.routing.pools import Split
from paceline_worker.router.fleet import Engine, Fleet, Lease
from paceline_worker.router.places import Owner, Place

NOTED: Final = 0.02
"""Change of what is known of the engines' speed, as a share of it, that is worth new settings."""


class Seats:
    """Engines for requests. Times are those of ``owner``, who hears what becomes of the places."""

    def __init__(
        self,
        owner: Owner,
        fleet: Fleet,
        settings: PlacementSettings,
        model: EngineModel,
        objective: wire.Objective,
        random: Callable[[], float],
    ) -> None:
        self._owner = owner
        self._fleet = fleet
        self._model = model
        self._ttft_seconds = objective.ttft_milliseconds / 1000
        self._itl_seconds = objective.itl_milliseconds / 1000
        self._random = random
        self._speed = StepShare()
        self._share = self._speed.value
        """The settings in force are made with."""
        self.settings = settings
        """In force."""

    @property
    def step_share(self) -> float:
        """Time of a decode step, as a share of what the engine model says; 1 at most."""
        return self._speed.value

    def set_split(self, split: Split) -> None:
        """Keep cold and warm prompts apart by these figures from now on."""
        self.settings = msgspec.structs.replace(
            self.settings, cold_tokens=split.cold_tokens, cold_share=split.cold_share
        )

    def streamed(self, engine: Engine, itl_seconds: float | None) -> None:
        """A stream that still counts as running there ended well; None where it had fewer than two tokens."""
        if itl_seconds is None or self.settings.crowding is None or engine.endpoint.role is not wire.Role.DECODE:
            return
        view, there = engine.view(self._owner.now()), engine.reported.requests
        # Those whose prompt is being computed elsewhere have their place already, and make no step longer yet.
        decoding = min(1.0, there / view.running) if there and view.running else 1.0
        streams, context = round(decoding * view.running), round(decoding * view.context_tokens)
        self._speed.ended(itl_seconds, self._model.step_seconds(streams, context))
        share = self._speed.value
        if abs(share - self._share) > NOTED * self._share:
            self._share = share
            limit = crowding(self._model, self._itl_seconds, share=share)
            self.settings = msgspec.structs.replace(self.settings, crowding=limit)

    def views(self) -> list[EngineView]:
        """All engines as placement sees them."""
        now = self._owner.now()
        return [engine.view(now) for engine in self._fleet]

    def choose(self, view: RequestView, views: Sequence[EngineView]) -> Placement | None:
        """Engines for a request; None when none has room."""
        return choose(view, views, self.settings, self._model, self._random())

    def crowds(self, view: RequestView, placement: Placement) -> bool:
        """Whether the streams of the engine that was chosen would miss their objective for this one."""
        return not uncrowded([placement.decode], view.context_tokens, self.settings.crowding)

    def take(self, view: RequestView, placement: Placement) -> Place:
        """Account a request to the engines that were chosen for it."""
        engines, now = self._fleet.engines, self._owner.now()
        remote = placement.prefill is not None
        if not remote:
            self._owe(engines[placement.decode.name], view, placement.decode)
        decode = Lease(
            engines[placement.decode.name],
            now,
            running=1,
            context=view.context_tokens,
            backlog=0.0 if remote else self._prefill_seconds(view, placement.decode),
        )
        prefill = None
        if placement.prefill is not None:
            backlog = self._prefill_seconds(view, placement.prefill)
            prefill = Lease(engines[placement.prefill.name], now, prefilling=1, backlog=backlog)
            self.pace(prefill.engine, backlog, ends=now + backlog)
        return Place(self._owner, placement, decode, prefill)

    def _owe(self, engine: Engine, view: RequestView, seen: EngineView) -> None:
        """Note that streams of a decode engine wait for a prompt that it computes itself."""
        if seen.role is not wire.Role.DECODE or not seen.running:
            return
        uncached, now = view.uncached_on(seen), self._owner.now()
        model = self._model
        # It joins a step that is made anyway, so only what it adds to one counts.
        added = model.prefill_seconds(uncached, view.prompt_tokens - uncached) - model.prefill_seconds(1)
        step = model.step_seconds(seen.running, seen.context_tokens)
        engine.owed_until = owed_until(
            now, engine.owed_until, max(0.0, added), step_seconds=step, itl_seconds=self._itl_seconds
        )
        engine.changed()

    def pace(self, engine: Engine, prompt_seconds: float, *, ends: float) -> None:
        """Give an engine with streams no prompt for a while after one that ``ends`` then."""
        if engine.finishing:
            step = self._model.step_seconds(engine.running, engine.context_tokens)
            engine.rests_until = ends + rest_seconds(prompt_seconds, step_seconds=step, itl_seconds=self._itl_seconds)
            engine.changed()

    def spares(self, placement: Placement, view: RequestView, arrived: float | None) -> bool:
        """Whether a prompt is not to stop the streams of an engine: it would be late anyhow, and others can do it."""
        if placement.prefill is None or not self._fleet.engines[placement.prefill.name].finishing:
            return False
        now, ttft = self._owner.now(), self.ttft_of(view)
        if now + placement.prefill_seconds <= (now if arrived is None else arrived) + ttft:
            return False
        return any(one.usable and one.endpoint.role is wire.Role.PREFILL and not one.finishing for one in self._fleet)

    def ttft_of(self, view: RequestView) -> float:
        """The TTFT that is to be met, in seconds."""
        return self._ttft_seconds if view.ttft_seconds is None else view.ttft_seconds

    def needs(self, view: RequestView) -> tuple[int, float]:
        """Uncached tokens at best, and the seconds that these take."""
        uncached = view.prompt_tokens - max(view.match.values(), default=0)
        return uncached, self._model.prefill_seconds(uncached)

    def _prefill_seconds(self, view: RequestView, engine: EngineView) -> float:
        uncached = view.uncached_on(engine)
        return self._model.prefill_seconds(uncached, view.prompt_tokens - uncached)
