"""The engine in closed form: against hand-made sums, and against the engine model that goes step by step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.api.wire import Role
from paceline.policy.engine.batching import EngineModel
from paceline.policy.engine.sequence import Sequence
from paceline.policy.scaling.profiles import get_profile
from paceline.simulator.cache import PrefixCache
from paceline.simulator.engine import SimEngine
from paceline.simulator.events import EventLoop
from paceline.simulator.request import SimRequest

PROFILE = get_profile("qwen3-32b-h200-tp2")


@dataclass
class Feeder:
    """Stands for the router, and notes what it is told."""

    computed_at: dict[int, float] = field(default_factory=dict)
    finished_at: dict[int, float] = field(default_factory=dict)
    loop: EventLoop = field(default_factory=EventLoop)

    def begun(self, engine: SimEngine, request: SimRequest) -> None:
        """Nothing is cached."""

    def computed(self, engine: SimEngine, request: SimRequest) -> None:
        self.computed_at[request.number] = self.loop.now

    def finished(self, engine: SimEngine, request: SimRequest, at: float) -> None:
        self.finished_at[request.number] = at

    def emptied(self, engine: SimEngine) -> None:
        """Nobody asked it to leave."""

    def run(self) -> None:
        while self.loop.next_at < float("inf"):
            self.loop.run_next()


def engine_of(feeder: Feeder, role: Role, **changes: int) -> SimEngine:
    return SimEngine(0, replace(PROFILE, **changes), role, PrefixCache(1), feeder, feeder.loop)


def request_of(number: int, arrived: float, prompt: int, output: int, *, local: bool = True) -> SimRequest:
    request = SimRequest(number, arrived, prompt, output, ())
    request.left, request.local = prompt, local
    return request


def test_a_prompt_alone_takes_its_prefill_time() -> None:
    feeder = Feeder()
    engine = engine_of(feeder, Role.PREFILL)
    engine.give(request_of(0, 0.0, 5000, 100, local=False))
    feeder.run()
    assert feeder.computed_at[0] == pytest.approx(PROFILE.prefill_seconds(5000))
    assert engine.held == 5000


def test_a_prompt_longer_than_a_step_is_computed_in_chunks() -> None:
    feeder = Feeder()
    engine = engine_of(feeder, Role.PREFILL)
    engine.give(request_of(0, 0.0, 20_000, 100, local=False))
    feeder.run()
    assert feeder.computed_at[0] == pytest.approx(3 * PROFILE.prefill_base + PROFILE.prefill_work(20_000, 0))


def test_a_sequence_alone_decodes_in_the_sum_of_its_steps() -> None:
    feeder = Feeder()
    engine = engine_of(feeder, Role.DECODE)
    request = request_of(0, 0.0, 3000, 50, local=False)
    engine.expect(request)
    engine.join(request)
    feeder.run()
    steps = [PROFILE.step_seconds(1, 3000 + done) for done in range(50)]
    assert request.first_token == pytest.approx(steps[0])
    assert feeder.finished_at[0] == pytest.approx(sum(steps))
    assert engine.empty
    assert engine.context == 0


def test_a_sequence_joins_at_the_end_of_the_step_that_is_under_way() -> None:
    feeder = Feeder()
    engine = engine_of(feeder, Role.DECODE)
    first, second = request_of(0, 0.0, 1000, 10, local=False), request_of(1, 0.0, 2000, 10, local=False)
    engine.expect(first)
    engine.join(first)
    one = PROFILE.step_seconds(1, 1000)
    engine.expect(second)
    feeder.loop.at(one / 2, lambda _: engine.join(second))
    feeder.run()
    assert second.first_token == pytest.approx(one + PROFILE.step_seconds(2, 1001 + 2000))


def test_blocks_are_fetched_from_the_end_of_the_step_that_is_under_way() -> None:
    feeder = Feeder()
    engine = engine_of(feeder, Role.DECODE)
    assert engine.expect(request_of(0, 0.0, 500, 10, local=False)) == 0.0
    running = request_of(1, 0.0, 1000, 10, local=False)
    engine.expect(running)
    engine.join(running)
    begins: list[float] = []
    step = PROFILE.step_seconds(1, 1000)
    feeder.loop.at(step / 2, lambda late: begins.append(engine.expect(late)), request_of(2, 0.0, 500, 10, local=False))
    feeder.run()
    assert begins == [pytest.approx(step)]


def test_the_newest_sequence_is_preempted_when_memory_is_full_and_still_ends() -> None:
    feeder = Feeder()
    engine = engine_of(feeder, Role.DECODE, kv_capacity_tokens=2100)
    requests = [request_of(number, 0.0, 1000, 100, local=False) for number in range(2)]
    for request in requests:
        engine.expect(request)
        engine.join(request)
    feeder.run()
    assert engine.preemptions == 1
    assert feeder.finished_at[0] < feeder.finished_at[1]
    assert engine.empty
    assert engine.context == 0


ARRIVALS = st.lists(
    st.tuples(st.floats(0, 3), st.integers(1, 20_000), st.integers(1, 80)),
    min_size=1,
    max_size=15,
    # Of two that come at the same moment, which one finds the engine idle is a matter of taste.
    unique_by=lambda arrival: arrival[0],
).map(sorted)


@settings(deadline=None)
@given(ARRIVALS)
def test_it_makes_the_steps_of_the_engine_model_that_the_emulator_runs(
    arrivals: list[tuple[float, int, int]],
) -> None:
    feeder = Feeder()
    engine = engine_of(feeder, Role.BOTH)
    requests = [request_of(number, *arrival) for number, arrival in enumerate(arrivals)]
    for request in requests:
        feeder.loop.at(request.arrived, engine.give, request)
    feeder.run()
    first, last = _step_by_step(arrivals)
    assert [request.first_token for request in requests] == pytest.approx(first)
    assert [feeder.finished_at[number] for number in range(len(requests))] == pytest.approx(last)


@settings(deadline=None)
@given(ARRIVALS)
def test_an_engine_that_only_computes_prompts_makes_the_same_steps(arrivals: list[tuple[float, int, int]]) -> None:
    arrivals = [(arrived, 2 * prompt, 1) for arrived, prompt, _ in arrivals]
    feeder = Feeder()
    engine = engine_of(feeder, Role.PREFILL)
    for number, arrival in enumerate(arrivals):
        request = request_of(number, *arrival, local=False)
        feeder.loop.at(request.arrived, engine.give, request)
    feeder.run()
    first, _ = _step_by_step(arrivals)
    assert [feeder.computed_at[number] for number in range(len(arrivals))] == pytest.approx(first)


def _step_by_step(arrivals: list[tuple[float, int, int]]) -> tuple[list[float], list[float]]:
    """Times of the first and last tokens when :class:`EngineModel` makes every single step."""
    model = EngineModel(PROFILE, prefix_caching=False)
    sequences = [Sequence(_Nothing(), prompt, output) for _, prompt, output in arrivals]
    first: dict[Sequence, float] = {}
    last: dict[Sequence, float] = {}
    now, upcoming = 0.0, 0
    while len(last) < len(sequences):
        while upcoming < len(sequences) and arrivals[upcoming][0] <= now:
            model.submit(sequences[upcoming])
            upcoming += 1
        step = model.step()
        if step is None:
            now = arrivals[upcoming][0]
            continue
        now += step.duration
        for sequence in step.emitted:
            first.setdefault(sequence, now)
        for sequence in step.finished:
            last[sequence] = now
    return [first[sequence] for sequence in sequences], [last[sequence] for sequence in sequences]


class _Nothing:
    """Contents that no one asks for: prefixes are not cached here."""

    def hashes(self, count: int) -> list[int]:
        raise AssertionError("no prefix caching")

    def tokens(self, start: int, end: int) -> list[int]:
        return []
