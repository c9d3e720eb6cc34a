"""What the planner looks at, and what it remembers: frozen values that are written as JSON and read back unchanged.

The planner's loop makes an :class:`Observation` from Prometheus and the pods, the simulator makes one from its virtual
cluster; :func:`paceline.policy.scaling.planner.plan` takes either, with the :class:`PolicyState` that the call before
returned. Recorded as JSON lines they replay to identical decisions.

Times are seconds on one clock of the caller's choice, sizes are tokens.
"""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from paceline.api.wire import EngineState, Role
from paceline.errors import ConfigError
from paceline.unreadable import UNREADABLE

MAX_INTERVALS: Final = 4096
"""Scrape intervals in one observation: an hour of seconds."""
MAX_CELLS: Final = 20_000
"""Different prompt sizes in one interval, or arrivals in one observation that has them one by one."""
MAX_ENGINES: Final = 20_000
MAX_WANTS: Final = 8192
"""Remembered needs: a day of scale-down window at one decision in 15 s."""
MAX_CURVES: Final = 64
"""An hour of slices of a minute."""
MAX_SIZES: Final = 128
"""Sizes of a fleet in one of them: from 1 to the most engines there can be, in steps of a tenth."""
MAX_SLOTS: Final = 2048
"""Slots that a season is divided into."""

Count = Annotated[int, Meta(ge=0)]
Tokens = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel", omit_defaults=True):
    """Base of everything that is recorded. Subclasses repeat ``frozen`` and ``kw_only`` for type checkers."""


class ArrivalCell(Value, frozen=True, kw_only=True):
    """Requests of one interval that are alike: of one bucket of the router's histograms."""

    uncached: Tokens
    """Prompt tokens that no engine's cache was expected to hold."""
    cached: Tokens
    """Prompt tokens that one was expected to hold."""
    count: Count


class ArrivalInterval(Value, frozen=True, kw_only=True):
    """What arrived between two scrapes: the increments of the histograms. Refused requests are among them."""

    start: float
    end: float
    cells: Annotated[tuple[ArrivalCell, ...], Meta(max_length=MAX_CELLS)] = ()


class Arrival(Value, frozen=True, kw_only=True):
    """One request, where they are known one by one."""

    seconds: float
    uncached: Tokens
    cached: Tokens


class CompletionCell(Value, frozen=True, kw_only=True):
    """Requests of one interval that ended, and are alike in their prompts."""

    prompt: Tokens
    """Typical prompt of the cell."""
    count: Count
    outputs: Tokens
    """Output tokens of all of them together."""


class CompletionInterval(Value, frozen=True, kw_only=True):
    """What was completed between two scrapes."""

    start: float
    end: float
    cells: Annotated[tuple[CompletionCell, ...], Meta(max_length=MAX_CELLS)] = ()


class EngineLoad(Value, frozen=True, kw_only=True):
    """One engine pod."""

    name: str
    role: Role | None
    """None: it gets one when it is ready."""
    state: EngineState
    changing: bool = False
    """Whether it does not serve ``role`` yet: the routers may not know of it, or it finishes work of another one first.
    It counts for ``role``, and can't change again yet.
    """
    age_seconds: NotNegative = 0.0
    """Since its state last changed: for a starting pod, since it was created."""
    retry_later: bool = False
    """Of one that is not ready by its deadline: whether it is too soon to replace it once more."""
    running: Count = 0
    """Sequences that decode."""
    waiting: Count = 0
    """Requests that wait in the engine, or in the router for this engine."""
    waiting_seconds: NotNegative = 0.0
    """Prefill work of those, through the engine model."""
    kv_usage: Share = 0.0
    reusable_tokens: Tokens = 0
    """Prefix tokens in its cache that were used again of late: what a change of role, or a drain, would lose."""


class Attainment(Value, frozen=True, kw_only=True):
    """How the objective was met within the demand window, as histograms show it. Refused requests are misses."""

    requests: Count
    """Requests that got their first token, or were refused."""
    ttft: Share
    """Share of them within the TTFT objective; also those that no engine could have served in time are misses."""
    itl: Share
    """Share of those that ended within the ITL objective."""
    both: Share
    """Share of those that ended within both."""


class Measured(Value, frozen=True, kw_only=True):
    """How long changes take, measured on this deployment."""

    start_p50_seconds: NotNegative = 90.0
    """From the creation of a pod until it is ready."""
    start_p95_seconds: NotNegative = 180.0
    flip_seconds: NotNegative = 1.0
    """From the change of a role label until the routers act on it."""


class Observation(Value, frozen=True, kw_only=True):
    """Everything that one decision may depend on, besides settings, engine model and the planner's own state."""

    now: float
    arrivals: Annotated[tuple[ArrivalInterval, ...], Meta(max_length=MAX_INTERVALS)] = ()
    """The demand window, oldest first, without gaps."""
    exact_arrivals: Annotated[tuple[Arrival, ...], Meta(max_length=MAX_CELLS)] = ()
    """The same window one by one, in order, where a finer source than Prometheus is there. Used instead of the cells;
    ``arrivals`` still says which time is covered.
    """
    completions: Annotated[tuple[CompletionInterval, ...], Meta(max_length=MAX_INTERVALS)] = ()
    engines: Annotated[tuple[EngineLoad, ...], Meta(max_length=MAX_ENGINES)] = ()
    """Every pod that exists, draining ones too: they hold accelerators."""
    queued_requests: Count = 0
    """Requests that wait in the router for no engine in particular."""
    queued_decode: Count = 0
    """Of those, the ones that wait for a place among the streams of a decode engine."""
    queued_seconds: NotNegative = 0.0
    """Prefill work of the others, through the engine model."""
    measured: Measured = Measured()
    attainment: Attainment | None = None
    """None: not known."""
    metrics_problem: str | None = None
    """Why arrivals and loads can't be trusted; None when they can. The planner then holds what is there."""

    @property
    def decoding(self) -> int:
        """Sequences that decode, and those that wait for a place among them: up to as many as there are."""
        running = sum(engine.running for engine in self.engines if engine.role is not Role.PREFILL)
        return running + min(self.queued_decode, running)


class Counts(Value, frozen=True, kw_only=True):
    """Engines by role."""

    prefill: Count = 0
    decode: Count = 0
    both: Count = 0

    @property
    def total(self) -> int:
        """Of all roles."""
        return self.prefill + self.decode + self.both

    def of(self, role: Role) -> int:
        """Of one role."""
        return {Role.PREFILL: self.prefill, Role.DECODE: self.decode, Role.BOTH: self.both}[role]


class Want(Value, frozen=True, kw_only=True):
    """What was needed at a past decision, and what there was."""

    at: float
    near: Counts
    """For the time that a flip takes."""
    far: Counts
    """For the time that a start takes."""
    ready: Counts
    decoding: Count | None = None
    """Sequences that decoded, with those that waited for a place among them; None: not noted."""
    queued_seconds: NotNegative = 0.0
    """Prefill work that waited in the router."""
    foreseen: Counts | None = None
    """What the far horizon asked for, before anybody knew whether the next look would too; None: not noted."""


class OutputBucket(Value, frozen=True, kw_only=True):
    """Output lengths of completions whose prompts fall into one bucket, older ones with less weight."""

    bucket: int
    weight: NotNegative
    tokens: NotNegative
    """Weighted sum."""


class SeasonSlot(Value, frozen=True, kw_only=True):
    """The load of one slot of the season when it was last seen."""

    at: float
    """When it began."""
    peak: NotNegative


class Account(Value, frozen=True, kw_only=True):
    """Misses beyond those that are planned for, in requests: see :mod:`~paceline.policy.scaling.overdraft`."""

    share: Share | None = None
    """Of the allowed misses, that is planned for when nothing is overdrawn; None: never settled."""
    planned: NotNegative = 0.0
    """Misses a second that were planned for when it was last settled."""
    overdrawn: float = 0.0
    """By how many more were missed than are planned for; negative for fewer."""
    debt: float = 0.0
    """The same, remembered for longer: while it is not paid, engines are held against jumps."""
    rise: NotNegative = 0.0
    """What the present jump of the load has cost."""
    jump: NotNegative = 0.0
    """What the largest one of late has."""


class MissCurve(Value, frozen=True, kw_only=True):
    """A slice of the past: how many requests would have been late with how many engines of all roles together."""

    at: float
    """When it ended."""
    requests: Count
    """Those that arrived in it and that an idle engine would serve in time."""
    engines: Annotated[tuple[Count, ...], Meta(max_length=MAX_SIZES)] = ()
    """Sizes of a fleet, smallest first. With fewer than the first every request is late."""
    missed: Annotated[tuple[Count, ...], Meta(max_length=MAX_SIZES)] = ()
    """With each of those. More engines than the last would not help, or are not allowed."""
    basis: Count = 0
    """Stands for the objective and the engine models that it was made with."""


class PolicyState(Value, frozen=True, kw_only=True):
    """What the planner remembers from one decision to the next. The empty one is where it begins."""

    decided_at: float | None = None
    targets: Counts | None = None
    """What was last decided on."""
    wants: Annotated[tuple[Want, ...], Meta(max_length=MAX_WANTS)] = ()
    """Past needs, oldest first; engines are removed only below the largest of the scale-down window."""
    prefill_season: Annotated[tuple[SeasonSlot, ...], Meta(max_length=MAX_SLOTS)] = ()
    """Prefill work that arrived, engine seconds a second, oldest first, at most one season."""
    decode_season: Annotated[tuple[SeasonSlot, ...], Meta(max_length=MAX_SLOTS)] = ()
    """Output tokens that were asked for, a second."""
    outputs: Annotated[tuple[OutputBucket, ...], Meta(max_length=256)] = ()
    correction: Annotated[float, Meta(gt=0)] = 1.0
    """Factor on the prefill load that makes the replay agree with what was attained."""
    account: Account = Account()
    curves: Annotated[tuple[MissCurve, ...], Meta(max_length=MAX_CURVES)] = ()
    """Of the last hour, oldest first."""
    seen_until: float | None = None
    """End of the last interval that went into ``outputs``."""
    busy_at: float | None = None
    """When a request last arrived."""


V = TypeVar("V", bound=Value)


def write(value: Value) -> bytes:
    """As one line of JSON. Floats are written so that they read back to the same bits."""
    return msgspec.json.encode(value, order="deterministic")


def read(kind: type[V], line: bytes | str, *, source: str) -> V:
    """One line of JSON back to the value. ``source`` names it in the ConfigError that bad input raises."""
    try:
        return msgspec.json.decode(line, type=kind)
    except UNREADABLE as error:
        raise ConfigError(f"{source} is not a valid {kind.__name__}: {error}") from None
