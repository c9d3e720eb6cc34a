"""Who holds how much of a prompt: one index over all engines of the fleet, fed by their events and by what was sent.

The flow asks :meth:`Knowledge.match` when it places a request and tells :meth:`Knowledge.sent` where it went. Engines
come and go through :meth:`Knowledge.sync`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any, Final

import msgspec
import zmq

from paceline.clock import Clock
from paceline.policy.routing.block_hashes import ChainMemory
from paceline.policy.routing.engine_cache import EngineCache, Oddity
from paceline.policy.routing.kv_events import Event
from paceline.policy.routing.prefix_index import Held, PrefixIndex, Spreader, Tier
from paceline_worker.router.fleet import Engine
from paceline_worker.router.metrics import Sample
from paceline_worker.router.prefixes.prompt import Prompt
from paceline_worker.router.prefixes.subscription import Noted, Subscription

log = logging.getLogger(__name__)

STALE_SECONDS: Final = 60.0
"""Events of an engine that could not be confirmed for so long don't count as its word any more."""
UNCONFIRMED_SECONDS: Final = 10.0
"""How long what was sent counts at least where events are to confirm it."""
ASSUMED_CAPACITY_TOKENS: Final = 1_000_000
"""Of an engine's KV cache when nothing is known of the hardware."""
SWEPT_BLOCKS: Final = 20_000
"""Entries of engines that left which one tick forgets."""
REMEMBERED_STRIDES: Final = 2048
"""About 25 MB of chains: 8 million tokens of prompts."""


class Mode(StrEnum):
    """What the router goes by for one engine."""

    EVENTS = "events"
    SENT = "sent"
    """The engine reports no events: what was sent to it."""
    STALE = "stale"
    """It is to report events, and does not: what was sent, and what it said last."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the knowledge is told once."""

    model: str
    """Root of all chains."""
    block_size: int
    """Of engines that have not said theirs."""
    max_entries: int
    capacity_tokens: int
    """Of one engine's KV cache; 0 when that is not known."""
    tier_weights: tuple[float, ...]
    """By :class:`Tier`."""
    sent_seconds: float
    """How long what was sent to an engine without events counts."""


class _Rank:
    """One data-parallel rank of one engine: its entries, and its events."""

    def __init__(self, index: PrefixIndex, settings: Settings, on_reset: Callable[[], None]) -> None:
        self._index = index
        self._settings = settings
        self._on_reset = on_reset
        self.cache: EngineCache
        self.number = self._join()
        self.subscription: Subscription | None = None
        self.oddities: Counter[Oddity] = Counter()
        """Of caches before the last reset."""

    def _join(self) -> int:
        settings = self._settings
        capacity = (settings.capacity_tokens or ASSUMED_CAPACITY_TOKENS) // settings.block_size

        def make(bit: int) -> EngineCache:
            self.cache = EngineCache(self._index, bit, model=settings.model, sent_capacity=capacity)
            return self.cache

        return self._index.join(make)

    def apply(self, events: Sequence[Event]) -> Iterator[int]:
        """See :class:`paceline_worker.router.prefixes.subscription.Sink`."""
        return self.cache.apply(events)

    def reset(self) -> None:
        """See :class:`paceline_worker.router.prefixes.subscription.Sink`."""
        self.oddities += self.cache.oddities
        self._index.leave(self.number)
        self.number = self._join()
        self._on_reset()

    def close(self) -> None:
        """The engine is gone."""
        if self.subscription is not None:
            self.subscription.close()
        self._index.leave(self.number)


class _Watched:
    """One engine."""

    def __init__(self, source: tuple[str | None, str | None, int], ranks: list[_Rank]) -> None:
        self.source = source
        self.ranks = ranks


class Knowledge:
    """All engines. One object for the process; :meth:`close` it at the end."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._context: zmq.Context[Any] = zmq.Context()
        self.index = PrefixIndex(max_entries=settings.max_entries)
        self.memory = ChainMemory(REMEMBERED_STRIDES)
        self._watched: dict[Engine, _Watched] = {}
        self._key_of: dict[int, str] = {}
        """Cache number to engine, or to one of its ranks; made anew when engines change."""
        self._rank_of: dict[str, str] = {}
        """Rank to engine, of engines that have several: the best of them counts."""
        self._renumbered = True
        self._spreader: Spreader[str] = Spreader(self._key_of.__getitem__)
        self._sizes: tuple[int, ...] = (settings.block_size,)
        self._noted: Counter[Noted] = Counter()
        self._past_oddities: Counter[Oddity] = Counter()

    def sync(self, engines: Iterable[Engine]) -> None:
        """Follow these engines and no others."""
        present = {engine: _source(engine) for engine in engines}
        for engine, watched in list(self._watched.items()):
            if present.get(engine) != watched.source:
                del self._watched[engine]
                for rank in watched.ranks:
                    rank.close()
                    self._past_oddities += rank.oddities + rank.cache.oddities
        for engine, source in present.items():
            if engine not in self._watched:
                self._watched[engine] = self._watch(engine, source)
        self._renumber()

    def match(self, prompt: Prompt) -> dict[str, Held]:
        """Engines that hold anything of the prompt, by name."""
        if not self._renumbered:
            self._renumber()
        found: dict[str, Held] = {}
        for size in self._sizes if prompt.exact else (0,):
            steps = self.index.match(prompt.names(size))
            held = self._spreader.spread(steps, self._settings.tier_weights, prompt.block_tokens(size))
            if not found and not self._rank_of:
                found = held
                continue
            for key, one in held.items():
                name = self._rank_of.get(key, key)
                other = found.get(name)
                if other is None or other.worth < one.worth:
                    found[name] = one
        return found

    def sent(self, prompt: Prompt, engine: Engine, known: Held | None, *, seconds: float = 0.0) -> None:
        """The prompt is on its way to ``engine``, which held ``known`` of it and computes it within ``seconds``."""
        watched = self._watched.get(engine)
        if watched is None or len(watched.ranks) > 1:
            return  # which rank gets it is the engine's own choice
        cache = watched.ranks[0].cache
        size = cache.block_size or self._settings.block_size
        names = prompt.names(size)
        if prompt.exact and self.mode(engine) is Mode.EVENTS:
            names = names[(known.tokens // size) if known else 0 :]
            seconds += UNCONFIRMED_SECONDS
        else:
            seconds = self._settings.sent_seconds
        if names:
            cache.sent.add(names, self._clock.monotonic() + seconds)

    def failed(self, prompt: Prompt, engine: Engine) -> None:
        """The engine did not answer: nothing may draw the same prompt there again."""
        watched = self._watched.get(engine)
        for rank in () if watched is None else watched.ranks:
            rank.cache.sent.drop(prompt.names(rank.cache.block_size or self._settings.block_size))

    def mode(self, engine: Engine) -> Mode:
        """What is known of an engine goes by this."""
        watched = self._watched.get(engine)
        if watched is None or watched.source[0] is None:
            return Mode.SENT
        return Mode.STALE if self.staleness(engine) > STALE_SECONDS else Mode.EVENTS

    def staleness(self, engine: Engine) -> float:
        """Seconds since the engine's events were last known to be complete; infinite before it was heard."""
        oldest = self._clock.monotonic()
        for rank in self._watched[engine].ranks:
            heard = None if rank.subscription is None else rank.subscription.confirmed_at
            if heard is None:
                return float("inf")
            oldest = min(oldest, heard)
        return self._clock.monotonic() - oldest

    def told(self, engine: Engine) -> int:
        """Blocks that the engine's events speak of."""
        return sum(rank.cache.told for rank in self._watched[engine].ranks)

    def names(self, engine: Engine) -> dict[str, list[int]]:
        """The engine's own names of those blocks, by tier."""
        ranks = self._watched[engine].ranks
        return {tier.name: [name for rank in ranks for name in rank.cache.names(tier)] for tier in Tier}

    def tick(self) -> None:
        """Once a second: forget what is over, in bounded steps."""
        now = self._clock.monotonic()
        for watched in self._watched.values():
            for rank in watched.ranks:
                rank.cache.sent.expire(now, SWEPT_BLOCKS)
        self.index.sweep(SWEPT_BLOCKS)
        self._renumber()

    def close(self) -> None:
        """Stop following all engines."""
        self.sync(())
        self._context.destroy(linger=0)

    def samples(self) -> Iterator[Sample]:
        """Gauges."""
        index = self.index
        yield "prefix_index_entries", "Blocks in the prefix index, counted once for each engine.", {}, index.entries
        yield "prefix_index_blocks", "Different blocks in the prefix index.", {}, index.blocks
        yield "prefix_index_max_entries", "Bound of the entries.", {}, index.max_entries
        yield "prefix_index_strides", "Strides of prompts whose names are remembered.", {}, len(self.memory)
        modes = Counter(self.mode(engine) for engine in self._watched)
        for mode in Mode:
            yield "prefix_index_engines", "Engines by what the router goes by.", {"mode": mode}, modes[mode]
        for engine, watched in self._watched.items():
            if watched.source[0] is not None:
                labels = {"engine": engine.name}
                yield (
                    "cache_events_staleness_seconds",
                    "Since an engine's events were complete.",
                    labels,
                    self.staleness(engine),
                )

    def counts(self) -> Iterator[Sample]:
        """Counters: never fall."""
        index = self.index
        for note in Noted:
            yield (
                "cache_event_batches",
                "Batches of cache events by what became of them.",
                {"outcome": note},
                self._noted[note],
            )
        oddities = self._past_oddities.copy()
        for watched in self._watched.values():
            for rank in watched.ranks:
                oddities += rank.oddities + rank.cache.oddities
        for oddity in Oddity:
            yield (
                "cache_event_blocks_skipped",
                "Blocks of events that were passed over.",
                {"reason": oddity},
                oddities[oddity],
            )
        yield "prefix_index_evicted", "Entries that were given up because the index was full.", {}, index.evicted
        yield "prefix_index_verified", "Matches that were checked block by block.", {}, index.verified
        yield "prefix_index_disagreements", "Matches that the check did not confirm.", {}, index.disagreements

    def _watch(self, engine: Engine, source: tuple[str | None, str | None, int]) -> _Watched:
        live, replay, count = source
        ranks = [_Rank(self.index, self._settings, self._caches_changed) for _ in range(count)]
        if live is None:
            return _Watched(source, ranks)
        try:
            for number, rank in enumerate(ranks):
                rank.subscription = Subscription(
                    self._context,
                    live=_of_rank(live, number),
                    replay=None if replay is None else _of_rank(replay, number),
                    engine=engine.name,
                    sink=rank,
                    clock=self._clock,
                    noted=self._noted,
                )
                rank.subscription.start()
        except (zmq.ZMQError, ValueError) as error:
            log.warning("cache events of engine %s can't be had from %s, %s: %s", engine.name, live, replay, error)
        return _Watched(source, ranks)

    def _caches_changed(self) -> None:
        self._renumbered = False

    def _renumber(self) -> None:
        """Cheap where nothing changed: what masks stand for stays remembered."""
        default, keys = self._settings.block_size, dict[int, str]()
        self._rank_of.clear()
        for engine, watched in self._watched.items():
            for number, rank in enumerate(watched.ranks):
                key = engine.name
                if len(watched.ranks) > 1:
                    key = f"{engine.name}/{number}"
                    self._rank_of[key] = engine.name
                keys[rank.number] = key
        if keys != self._key_of:
            self._key_of.clear()
            self._key_of.update(keys)
            self._spreader.forget()
        sizes = {rank.cache.block_size or default for watched in self._watched.values() for rank in watched.ranks}
        self._sizes = tuple(sorted(sizes)) or (default,)
        self._renumbered = True


def tier_weights(*, host: float, disk: float, shared: float) -> tuple[float, ...]:
    """Worth of a block by tier, against one on the accelerator."""
    worth = {Tier.GPU: 1.0, Tier.SENT: 1.0, Tier.HOST: host, Tier.DISK: disk, Tier.SHARED: shared}
    return tuple(worth[tier] for tier in Tier)


def _source(engine: Engine) -> tuple[str | None, str | None, int]:
    endpoint = engine.endpoint
    return endpoint.kv_events, endpoint.kv_replay, endpoint.data_parallel


def _of_rank(endpoint: str, rank: int) -> str:
    """Rank r publishes r ports above the first."""
    base, _, port = endpoint.rpartition(":")
    return f"{base}:{int(port) + rank}" if rank else endpoint
