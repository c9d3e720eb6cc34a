"""Continuous batching in virtual steps: what is computed when, what it costs, and that nothing is lost on the way."""

from __future__ import annotations

import copy
import dataclasses

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from paceline.policy.engine.batching import EngineModel
from paceline.policy.engine.sequence import Sequence, Source, State
from paceline.policy.scaling.profiles import get_profile
from tests.policy.engine.content import BLOCK, Tokens, deliver, expected_output, run, sequence

PROFILE = get_profile("qwen3-32b-h200-tp2")


def engine(blocks: int = 64, **options: int | bool) -> EngineModel:
    defaults: dict[str, int | bool] = {"max_seqs": 8, "max_batched_tokens": 16}
    return EngineModel(PROFILE, block_size=BLOCK, kv_blocks=blocks, **(defaults | options))  # type: ignore[arg-type]


def output(of: Sequence) -> list[int]:
    assert isinstance(of.content, Tokens)
    return of.content.output


def test_a_prompt_is_computed_in_chunks_and_the_last_chunk_gives_the_first_token() -> None:
    model, prompt = engine(), sequence(list(range(40)), 2)
    model.submit(prompt)
    steps = run(model)
    assert [step.prefill_tokens for step in steps] == [16, 16, 8, 0]
    assert [len(step.emitted) for step in steps] == [0, 0, 1, 1]
    assert prompt.state is State.FINISHED
    assert output(prompt) == expected_output(list(range(40)), 2)


def test_the_time_of_a_step_is_that_of_the_closed_form() -> None:
    model = engine()
    model.submit(sequence(list(range(40)), 3))
    first, second, third, fourth, _ = run(model)
    assert first.duration == pytest.approx(PROFILE.prefill_seconds(16, 0))
    assert second.duration == pytest.approx(PROFILE.prefill_seconds(16, 16))
    assert third.duration == pytest.approx(PROFILE.prefill_seconds(8, 32))
    assert fourth.duration == pytest.approx(PROFILE.step_seconds(1, 41))


def test_decodes_go_on_while_a_prompt_is_computed() -> None:
    model, short = engine(), sequence([1, 2], 10)
    model.submit(short)
    step = model.step()
    assert step is not None
    deliver(step)
    model.submit(sequence(list(range(40)), 1))
    mixed = model.step()
    assert mixed is not None
    assert mixed.emitted == [short]
    assert mixed.prefill_tokens == 15
    assert mixed.duration == pytest.approx(PROFILE.mixed_seconds(PROFILE.prefill_work(15, 0), 1, 3))


def test_a_second_prompt_reuses_the_blocks_of_its_prefix() -> None:
    model = engine()
    prefix = list(range(20))
    model.submit(sequence(prefix, 1))
    run(model)
    follower = sequence([*prefix, 99, 98], 1)
    model.submit(follower)
    assert run(model)[0].prefill_tokens == 2
    assert follower.cached_tokens == 20


def test_a_whole_prompt_in_cache_still_computes_its_last_block() -> None:
    model, first, again = engine(), sequence(list(range(16)), 1), sequence(list(range(16)), 1)
    for each in (first, again):
        model.submit(each)
        run(model)
    assert (first.cached_tokens, again.cached_tokens) == (0, 12)


def test_without_prefix_caching_nothing_is_reused() -> None:
    model, again = engine(prefix_caching=False), sequence(list(range(16)), 1)
    for each in (sequence(list(range(16)), 1), again):
        model.submit(each)
        run(model)
    assert again.cached_tokens == 0
    assert model.cache.cached_blocks == 0


def test_lower_priority_goes_first_and_equals_go_in_order_of_arrival() -> None:
    model = engine(max_seqs=1)
    late, first, second = (sequence([1], 1, priority=p) for p in (5, 0, 0))
    for each in (late, first, second):
        model.submit(each)
    assert [step.emitted[0] for step in run(model)] == [first, second, late]


def test_the_newest_is_preempted_when_blocks_run_out_and_computes_again() -> None:
    model = engine(blocks=6)
    old, new = sequence([1, 2, 3, 4], 12), sequence([5, 6, 7, 8], 12)
    model.submit(old)
    model.submit(new)
    steps = run(model)
    assert [s for step in steps for s in step.preempted] == [new]
    assert new.preemptions == 1
    assert output(new) == expected_output([5, 6, 7, 8], 12)
    assert old.preemptions == 0


def test_a_sequence_that_could_never_be_held_is_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens don't fit into 6 blocks of 4 tokens"):
        engine(blocks=6).submit(sequence(list(range(20)), 5))


def test_a_batch_that_one_step_could_not_decode_is_refused() -> None:
    with pytest.raises(ValueError, match="max_batched_tokens"):
        engine(max_seqs=32)


def test_a_finished_prefill_keeps_its_blocks_until_the_other_engine_has_them() -> None:
    model, held = engine(), sequence(list(range(10)), 1, hold=True)
    model.submit(held)
    run(model)
    assert held.state is State.HELD
    assert model.held == 1
    assert model.cache.held_blocks == len(held.blocks) == 3
    model.release(held)
    assert model.cache.held_blocks == 0
    assert model.held == 0


def test_a_remote_prompt_waits_for_its_blocks_and_computes_only_its_last_token() -> None:
    model, remote = engine(), sequence(list(range(10)), 2, remote=True)
    model.submit(remote)
    started = model.step()
    assert started is not None
    assert [(f.sequence, f.source, f.tokens) for f in started.fetches] == [(remote, Source.REMOTE, 10)]
    assert started.fetches[0].seconds == pytest.approx(PROFILE.transfer_seconds(10))
    assert started.duration == 0
    assert model.step() is None
    assert model.deferred == 1
    model.arrived(remote)
    assert run(model)[0].prefill_tokens == 1
    assert remote.remote_tokens == 10
    assert output(remote) == expected_output(list(range(10)), 2)


def test_only_what_the_local_cache_lacks_is_fetched() -> None:
    model = engine()
    model.submit(sequence(list(range(8)), 1))
    run(model)
    model.submit(sequence(list(range(10)), 1, remote=True))
    step = model.step()
    assert step is not None
    assert step.fetches[0].tokens == 2


def test_a_failed_fetch_means_the_prompt_is_computed_here() -> None:
    model, remote = engine(), sequence(list(range(10)), 2, remote=True)
    model.submit(remote)
    steps = run(model, fetches_arrive=False)
    assert sum(step.prefill_tokens for step in steps) == 10
    assert remote.remote_tokens == 0
    assert output(remote) == expected_output(list(range(10)), 2)


def test_blocks_in_host_memory_are_loaded_back_instead_of_computed() -> None:
    model = engine(blocks=6, host_blocks=16)
    model.submit(sequence(list(range(16)), 1))
    run(model)
    model.submit(sequence(list(range(50, 70)), 1))
    run(model)
    again = sequence(list(range(16)), 1)
    model.submit(again)
    step = model.step()
    assert step is not None
    (fetch,) = step.fetches
    assert fetch.source is Source.HOST
    assert fetch.seconds == pytest.approx(PROFILE.host_load_seconds(fetch.tokens))
    model.arrived(again)
    run(model)
    assert (again.cached_tokens + again.host_tokens, again.remote_tokens) == (12, 0)


@pytest.mark.parametrize("when", ["waiting", "fetching", "ready", "running", "held"])
def test_an_abort_gives_everything_back(when: str) -> None:
    model = engine()
    dropped = sequence(list(range(10)), 5 if when == "running" else 1, remote=when in ("fetching", "ready"), hold=True)
    model.submit(dropped)
    if when != "waiting":
        model.step()
    if when == "ready":
        model.arrived(dropped)
    assert dropped.state == when
    model.abort(dropped)
    assert dropped.state is State.FINISHED
    assert model.cache.held_blocks == 0
    assert (model.waiting, model.running, model.deferred, model.held) == (0, 0, 0, 0)
    model.arrived(dropped)
    assert model.step() is None


def test_an_early_end_leaves_the_batch_at_once() -> None:
    model, stopped = engine(), sequence([1, 2], 100)
    model.submit(stopped)
    model.step()
    model.finish(stopped)
    assert stopped.state is State.FINISHED
    assert model.step() is None


def test_a_prefix_cache_in_use_is_not_reset() -> None:
    model, running = engine(), sequence([1, 2], 5)
    model.submit(running)
    step = model.step()
    assert step is not None
    deliver(step)
    assert not model.reset_prefix_cache()
    run(model)
    assert model.reset_prefix_cache()


REMOTE = ("remote", "broken")
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=24)
requests = st.tuples(
    prompts,
    st.integers(1, 12),
    st.integers(0, 2),
    st.sampled_from(["plain", "plain", "remote", "broken", "hold", "abort", "stop"]),
    st.integers(0, 10),
)


class Turns:
    """Drives an engine turn by turn: arrivals, aborts, early ends, fetches of two turns, blocks held for others."""

    def __init__(self, model: EngineModel, wanted: list[tuple[list[int], int, int, str, int]]) -> None:
        self.model = model
        self.made = [
            (kind, when, sequence(prompt, count, priority=rank, remote=kind in REMOTE, hold=kind == "hold"))
            for prompt, count, rank, kind, when in wanted
        ]
        self.kind_of = {id(each): kind for kind, _, each in self.made}
        self.fetching: list[tuple[int, Sequence]] = []

    def run(self) -> None:
        idle_turns = turn = 0
        while idle_turns < 20:
            self._arrive(turn)
            step = self.model.step()
            idle_turns = 0 if step else idle_turns + 1
            if step:
                deliver(step)
                self.fetching += [(turn + 2, fetch.sequence) for fetch in step.fetches]
                self._end_early()
            self._release_one()
            self.check()
            turn += 1
            assert turn < 3000, "the engine does not come to an end"

    def _arrive(self, turn: int) -> None:
        for kind, when, each in self.made:
            if when == turn:
                self.model.submit(each)
            if kind == "abort" and when + 3 == turn:
                self.model.abort(each)
        for due, each in [item for item in self.fetching if item[0] == turn]:
            self.fetching.remove((due, each))
            (self.model.failed if self.kind_of[id(each)] == "broken" else self.model.arrived)(each)

    def _end_early(self) -> None:
        for kind, _, each in self.made:
            if kind == "stop" and each.generated >= 3:
                self.model.finish(each)

    def _release_one(self) -> None:
        held = [each for _, _, each in self.made if each.state is State.HELD]
        if held:
            self.model.release(held[0])

    def check(self) -> None:
        live = {block for _, _, each in self.made for block in each.blocks}
        assert self.model.cache.held_blocks == len(live) <= self.model.cache.capacity
        for _, _, each in self.made:
            if each.state is State.RUNNING:
                assert len(each.blocks) * BLOCK >= each.computed
                assert each.computed < each.total


@settings(max_examples=100, deadline=None, phases=[Phase.generate])
@given(st.lists(requests, max_size=12), st.integers(9, 40), st.integers(0, 6), st.integers(1, 6), st.booleans())
def test_every_sequence_ends_with_its_own_tokens_and_no_block_is_lost(
    wanted: list[tuple[list[int], int, int, str, int]], blocks: int, host: int, max_seqs: int, caching: bool
) -> None:
    model = engine(blocks, host_blocks=host, max_seqs=max_seqs, max_batched_tokens=8, prefix_caching=caching)
    turns = Turns(model, wanted)
    turns.run()
    assert all(each.state is State.FINISHED for _, _, each in turns.made)
    assert model.cache.held_blocks == 0
    assert (model.running, model.waiting, model.deferred, model.held) == (0, 0, 0, 0)
    for (prompt, count, _, kind, _), (_, _, each) in zip(wanted, turns.made, strict=True):
        got = output(each)
        assert got == expected_output(prompt, len(got))
        if kind != "abort":
            assert len(got) == (min(count, 3) if kind == "stop" else count)


@settings(max_examples=100, deadline=None, phases=[Phase.generate])
@given(
    st.lists(st.tuples(prompts, st.integers(1, 30)), min_size=1, max_size=8),
    st.integers(14, 40),
    st.integers(1, 6),
    st.data(),
)
def test_advancing_k_steps_is_the_same_as_k_single_steps(
    wanted: list[tuple[list[int], int]], blocks: int, max_seqs: int, data: st.DataObject
) -> None:
    class Known(Tokens):
        """All output is known beforehand, as in a simulation."""

        def __init__(self, prompt: list[int], count: int) -> None:
            super().__init__(prompt)
            for _ in range(count):
                super().append()

        def append(self) -> None:
            pass

    fast = engine(blocks, max_seqs=max_seqs)
    for prompt, count in wanted:
        fast.submit(Sequence(Known(prompt, count), len(prompt), count))
    for _ in range(10_000):
        possible = fast.steps_until_change()
        if possible == 0:
            if fast.step() is None:
                break
            continue
        slow = copy.deepcopy(fast)
        count = data.draw(st.integers(1, possible))
        jump = fast.advance(count)
        singles = [slow.step() for _ in range(count)]
        assert all(step is not None for step in singles)
        taken = [step for step in singles if step is not None]
        assert jump.duration == pytest.approx(sum(step.duration for step in taken))
        assert all(not step.preempted and not step.admitted and not step.prefill_tokens for step in taken)
        assert [s.order for s in jump.finished] == [s.order for step in taken for s in step.finished]
        for attribute in ("running", "waiting", "deferred", "held", "usage"):
            assert getattr(fast, attribute) == getattr(slow, attribute)
        assert [_shape(s) for s in fast._running] == [_shape(s) for s in slow._running]
        assert list(fast.cache._by_hash) == list(slow.cache._by_hash)
    assert (fast.running, fast.waiting, fast.cache.held_blocks) == (0, 0, 0)


def _shape(of: Sequence) -> tuple[int, int, int, int, int]:
    return of.order, of.computed, of.total, of.sealed, len(of.blocks)


def test_more_steps_than_are_certain_are_refused() -> None:
    model = engine()
    model.submit(sequence([1, 2], 5))
    model.step()
    assert model.steps_until_change() == 4
    with pytest.raises(ValueError, match="at most 4"):
        model.advance(5)


def test_a_profile_gives_what_the_caller_leaves_open() -> None:
    profile = dataclasses.replace(PROFILE, kv_capacity_tokens=160, host_tier_tokens=80, max_seqs=3)
    model = EngineModel(profile, block_size=16)
    assert (model.cache.capacity, model.cache.host_capacity, model.max_seqs) == (10, 5, 3)
