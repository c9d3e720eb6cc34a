"""The engine loop in one process: tokens in time, fetches, aborts, what is counted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from paceline.policy.engine.sequence import State
from paceline.policy.health.signs import repetition
from paceline_worker.emulator.engine import EmulatedEngine
from paceline_worker.emulator.faults import Faults
from paceline_worker.emulator.generation import Generation
from paceline_worker.emulator.metrics import Metrics
from paceline_worker.emulator.options import parse
from paceline_worker.emulator.transfer import BlockSource
from tests.waiting import until
from tests.worker.emulator.building import plan

REMOTE_DECODE = {"do_remote_decode": True}
FLAGS = ("--block-size", "4", "--speed", "1000", "--kv-transfer-config", '{"kv_connector":"NixlConnector"}')


class Listener:
    """Collects one generation's tokens and knows when it has ended."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.begun = asyncio.Event()
        self.done = asyncio.Event()

    def token(self, generation: Generation, token: int, text: str) -> None:
        self.tokens.append(token)
        self.begun.set()
        if generation.finish_reason is not None:
            self.done.set()


class Running:
    """An engine whose loop runs."""

    def __init__(self, engine: EmulatedEngine, source: BlockSource) -> None:
        self.engine = engine
        self.source = source

    def submit(self, prompt: str, limit: int = 5, **fields: Any) -> tuple[Generation, Listener]:
        made, listener = plan(prompt, **({"ignore_eos": True} | fields)), Listener()
        generation = Generation(
            made, made.prompts[0], 0, sink=listener, output_limit=limit, block_size=4, seed=0
        )  # fmt: skip
        self.engine.submit(generation)
        return generation, listener

    async def complete(self, prompt: str, limit: int = 5, **fields: Any) -> list[int]:
        _, listener = self.submit(prompt, limit, **fields)
        async with asyncio.timeout(60):
            await listener.done.wait()
        return listener.tokens

    async def prefill(self, prompt: str, request: str) -> dict[str, Any]:
        generation, listener = self.submit(prompt, 1, kv_transfer_params=REMOTE_DECODE)
        async with asyncio.timeout(60):
            await listener.done.wait()
        params = self.engine.hold(generation, request)
        assert params is not None
        return params


@asynccontextmanager
async def running(*flags: str) -> AsyncIterator[Running]:
    options = parse([*FLAGS, *flags], {"VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1"})
    metrics = Metrics("m", options.max_model_len)
    source = BlockSource(60, metrics.count_expired)
    await source.start("127.0.0.1", 0)
    engine = EmulatedEngine(
        options, engine_id="e", metrics=metrics, faults=Faults(), publisher=None, source=source
    )  # fmt: skip
    loop = asyncio.create_task(engine.run())
    try:
        yield Running(engine, source)
    finally:
        assert not loop.done()
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await source.close()


async def test_the_same_prompt_gives_the_same_tokens_alone_or_in_a_crowd() -> None:
    async with running() as one:
        alone = await one.complete("hello there", 30)
        crowd = await asyncio.gather(
            *(one.complete(f"hello {n}", 30) for n in range(20)), one.complete("hello there", 30)
        )
        assert crowd[-1] == alone
        assert len({tuple(tokens) for tokens in crowd}) == 21


async def test_tokens_are_right_even_after_preemptions() -> None:
    async with running("--num-gpu-blocks-override", "24", "--max-num-seqs", "8") as small, running() as large:
        prompts = [f"prompt {n}" for n in range(8)]
        squeezed = await asyncio.gather(*(small.complete(prompt, 40) for prompt in prompts))
        assert small.engine.metrics.preemptions > 0
        assert squeezed == [await large.complete(prompt, 40) for prompt in prompts]


async def test_prefill_here_and_decode_there_gives_the_tokens_of_one_engine() -> None:
    async with running() as prefill, running() as decode:
        alone = await decode.complete("a prompt of some length", 20, cache_salt="other")
        params = await prefill.prefill("a prompt of some length", "r1")
        assert params["do_remote_prefill"] is True
        assert params["remote_num_tokens"] == 23
        assert len(params["remote_block_ids"][0]) == 6
        assert prefill.engine.model.held == 1
        assert await decode.complete("a prompt of some length", 20, kv_transfer_params=params) == alone
        await until(lambda: prefill.engine.model.held == 0)
        assert decode.engine.metrics.prompt_tokens_by_source["external_kv_transfer"] == 23
        assert decode.engine.metrics.transfer_time.count == 1


async def test_blocks_of_another_request_show_in_the_text() -> None:
    async with running() as prefill, running() as decode:
        right = await decode.complete("prompt number one", 20)
        params = await prefill.prefill("prompt number two", "r1")
        assert await decode.complete("prompt number one", 20, cache_salt="s", kv_transfer_params=params) != right


@pytest.mark.parametrize(
    "broken",
    [
        {"remote_port": 1},
        {"remote_port": 10**6},
        {"remote_port": None},
        {"remote_host": "\x00"},
        {"remote_request_id": "another"},
    ],
    ids=str,
)
async def test_blocks_that_can_not_be_fetched_are_computed(broken: dict[str, Any]) -> None:
    async with running() as prefill, running() as decode:
        params = await prefill.prefill("some prompt", "r1")
        tokens = await decode.complete("some prompt", 10, kv_transfer_params=params | broken)
        assert tokens == await decode.complete("some prompt", 10)
        assert decode.engine.metrics.failed_transfers == 1


async def test_an_aborted_request_frees_its_blocks_and_those_held_for_it() -> None:
    async with running() as prefill, running("--speed", "0.001") as decode:
        params = await prefill.prefill("some prompt", "r1")
        generation, _ = decode.submit("some prompt", 10, kv_transfer_params=params)
        await until(lambda: generation.sequence.state is State.FETCHING)
        decode.engine.abort(generation)
        assert decode.engine.model.cache.held_blocks == 0
        await until(lambda: prefill.engine.model.held == 0)
        assert decode.engine.metrics.finished["abort"] == 1


async def test_an_abort_in_the_middle_of_a_step_says_nothing_more() -> None:
    async with running() as one:
        generation, listener = one.submit("endless", 100_000)
        await listener.begun.wait()
        one.engine.abort(generation)
        said = len(listener.tokens)
        await one.complete("another", 20)
        assert len(listener.tokens) == said
        assert one.engine.model.running == 0


async def test_blocks_come_back_from_host_memory() -> None:
    async with running("--num-gpu-blocks-override", "12", "--kv-offloading-size", "1") as one:
        first = await one.complete("x" * 40, 4)
        await one.complete("y" * 40, 4)
        assert await one.complete("x" * 40, 4) == first
        assert one.engine.metrics.cached_by_tier["host"] > 0


async def test_a_finished_request_is_counted_in_every_histogram() -> None:
    async with running() as one:
        await one.complete("hello", 7)
        metrics = one.engine.metrics
        assert (metrics.prompt_tokens, metrics.generation_tokens) == (5, 7)
        assert (metrics.time_to_first_token.count, metrics.inter_token.count, metrics.end_to_end.count) == (1, 6, 1)
        assert metrics.request_prompt_tokens.total == 5
        assert metrics.request_generation_tokens.total == 7
        assert metrics.finished["length"] == 1


async def test_the_cache_is_reset_only_when_nobody_uses_it() -> None:
    async with running("--speed", "0.001") as one:
        generation, _ = one.submit("hello", 5)
        await until(lambda: generation.sequence.state is State.RUNNING)
        assert not one.engine.reset_prefix_cache()
        one.engine.abort(generation)
        assert one.engine.reset_prefix_cache()


async def test_a_frozen_engine_says_nothing_until_it_thaws() -> None:
    async with running() as one:
        one.engine.faults.replace(b'{"freeze": true}')
        _, listener = one.submit("hello", 5)
        for _ in range(200):
            await asyncio.sleep(0)
        assert listener.tokens == []
        one.engine.faults.replace(b"{}")
        async with asyncio.timeout(60):
            await listener.done.wait()


async def test_a_repeating_engine_says_one_token_for_ever() -> None:
    async with running() as one:
        one.engine.faults.replace(b'{"repetition": true}')
        assert set(await one.complete("hello", 20)) == {ord("o")}


async def test_an_engine_can_be_told_to_say_a_phrase_for_ever() -> None:
    async with running() as one:
        one.engine.faults.replace(b'{"phrase": true}')
        assert bytes(await one.complete("hello", 27)) == b"and so on " * 2 + b"and so "


async def test_an_engine_can_be_told_to_say_letters_of_another_script_without_a_pattern() -> None:
    async with running() as one:
        one.engine.faults.replace(b'{"script": true}')
        said = await one.complete("hello", 300)
        assert all("\u0430" <= chr(token) <= "\u044f" for token in said)
        assert repetition(said) is None


async def test_an_endless_engine_stops_only_where_it_must() -> None:
    async with running() as one:
        usual = await one.complete("hello", 4000, ignore_eos=False)
        one.engine.faults.replace(b'{"endless": true}')
        endless = await one.complete("hello", 4000, ignore_eos=False)
        assert len(usual) < len(endless) == 4000
        assert endless[: len(usual) - 1] == usual[:-1]


async def test_dropped_transfers_are_computed() -> None:
    async with running() as prefill, running() as decode:
        params = await prefill.prefill("some prompt", "r1")
        decode.engine.faults.replace(b'{"dropTransfers": true}')
        await decode.complete("some prompt", 5, kv_transfer_params=params)
        assert decode.engine.metrics.failed_transfers == 1
