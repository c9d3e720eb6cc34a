"""The seam: tokens off the event loop, within bounds, counted."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from paceline.clock import VirtualClock, WallClock
from paceline_worker.router.parse import Kind
from paceline_worker.router.tokens import folder
from paceline_worker.router.tokens import tokeniser as module
from paceline_worker.router.tokens.cache import PartCache
from paceline_worker.router.tokens.errors import NoTokens, Outcome, PromptTooLong
from paceline_worker.router.tokens.model import Model
from paceline_worker.router.tokens.prompt import ChatPrompt, TokenIds
from paceline_worker.router.tokens.tokeniser import MAX_PENDING, PAUSE_SECONDS, PooledTokeniser, open_tokeniser
from tests.worker.router.tokens.corpus import TEXTS
from tests.worker.router.tokens.models import train, write_model
from tests.worker.router.tokens.test_prompt import fields

HELLO = fields(messages=[{"role": "user", "content": "hello"}])
TEXT = fields(prompt="hello")


class FakeModel:
    """Encodes when it is let to, or raises."""

    longest_token = 4
    quick = False

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.go = threading.Event()
        self.go.set()
        self.fault: BaseException | None = None

    def render(self, prompt: ChatPrompt) -> str:
        if self.fault is not None:
            raise self.fault
        return "".join(message["content"] for message in prompt.messages)

    def encode(self, text: str, *, special_tokens: bool) -> TokenIds:
        self.threads.add(threading.current_thread().name)
        self.go.wait(30)
        if self.fault is not None:
            raise self.fault
        return module.ByteModel().encode(text, special_tokens=special_tokens)


class Rig:
    """A tokeniser over the fake model."""

    def __init__(self, *, limit: int | None = None, model: Model | None = None) -> None:
        self.model = FakeModel()
        self.clock = VirtualClock()
        cache = PartCache(1000)
        self.tokeniser = PooledTokeniser(model or self.model, cache, self.clock, max_model_len=limit)

    async def tokens(self, kind: Kind = Kind.COMPLETION, **values: Any) -> list[int] | None:
        tokens = await self.tokeniser.tokens(kind, fields(**values))
        return None if tokens is None else tokens.tolist()

    def page(self) -> str:
        registry = CollectorRegistry()
        registry.register(self.tokeniser.metrics)
        return generate_latest(registry).decode()

    def count(self, outcome: Outcome) -> int:
        lines = [line for line in self.page().splitlines() if f'tokenise_total{{outcome="{outcome}"}}' in line]
        return int(float(lines[0].split()[-1])) if lines else 0


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.model.go.set()
    made.tokeniser.close()


async def test_texts_chats_and_ids_have_tokens(rig: Rig) -> None:
    assert await rig.tokens(prompt="hi") == [104, 105]
    assert await rig.tokens(prompt=[5, 6]) == [5, 6]
    assert await rig.tokens(prompt=list(range(20_000))) == list(range(20_000))
    assert await rig.tokens(Kind.CHAT, messages=[{"role": "user", "content": "hi"}]) == [104, 105]
    assert rig.count(Outcome.OK) == 4


async def test_short_prompts_of_a_quick_model_stay_on_the_loop_and_others_leave_it(rig: Rig) -> None:
    rig.model.quick = True
    await rig.tokens(prompt="hi")
    await rig.tokens(Kind.CHAT, messages=[{"role": "user", "content": "hi"}])
    assert rig.model.threads == {threading.current_thread().name}
    rig.model.threads.clear()
    await rig.tokens(prompt="hi" * 100_000)
    rig.model.quick = False
    await rig.tokens(prompt="hi")
    assert threading.current_thread().name not in rig.model.threads


async def test_what_has_no_tokens_is_counted_by_its_reason(rig: Rig) -> None:
    assert await rig.tokens(prompt=["a", "b"]) is None
    assert await rig.tokens(Kind.OTHER, input="x") is None
    assert await rig.tokens(prompt="") is None
    assert rig.count(Outcome.UNSUPPORTED) == 2
    assert rig.count(Outcome.REFUSED) == 1


async def test_a_defect_costs_the_tokens_and_nothing_else(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    class Panic(BaseException):
        pass

    for fault in (ValueError("broken"), Panic()):
        rig.model.fault = fault
        assert await rig.tokens(prompt="x") is None
    rig.model.fault = None
    assert await rig.tokens(prompt="x") == [120]
    assert rig.count(Outcome.FAILED) == 2
    assert "broken" in caplog.text


class TestTooLong:
    async def test_a_prompt_longer_than_the_model_says_so(self) -> None:
        rig = Rig(limit=4)
        assert await rig.tokens(prompt="1234") == [49, 50, 51, 52]
        with pytest.raises(PromptTooLong, match=r"has 5 tokens; the model's length is 4\."):
            await rig.tokens(prompt="12345")
        with pytest.raises(PromptTooLong):
            await rig.tokens(prompt=[1, 2, 3, 4, 5])
        assert rig.count(Outcome.TOO_LONG) == 2
        rig.tokeniser.close()

    async def test_a_text_that_is_too_long_whatever_its_tokens_is_not_tokenised(self) -> None:
        rig = Rig(limit=4)
        rig.model.fault = AssertionError("was tokenised")
        with pytest.raises(PromptTooLong, match="at least 5 tokens") as caught:
            await rig.tokens(prompt="x" * 20)
        assert caught.value.limit == 4
        rig.tokeniser.close()

    async def test_without_a_length_there_is_still_a_bound(self, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "MAX_CHARACTERS", 10)
        assert await rig.tokens(prompt="x" * 11) is None


class TestBounds:
    async def test_no_more_prompts_wait_than_may(self, rig: Rig) -> None:
        rig.model.go.clear()
        waiting = [asyncio.create_task(rig.tokens(prompt="x")) for _ in range(MAX_PENDING)]
        await asyncio.sleep(0)
        assert await rig.tokens(prompt="x") is None
        assert rig.count(Outcome.BUSY) == 1
        assert f"tokenise_pending {float(MAX_PENDING)}" in rig.page()
        rig.model.go.set()
        assert await asyncio.gather(*waiting) == [[120]] * MAX_PENDING
        assert "tokenise_pending 0.0" in rig.page()

    async def test_an_answer_that_comes_too_late_is_not_waited_for(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)
        rig.model.go.clear()
        assert await rig.tokens(prompt="x") is None
        assert rig.count(Outcome.LATE) == 1

    async def test_a_client_that_goes_away_leaves_nothing_behind(self, rig: Rig) -> None:
        rig.model.go.clear()
        tasks = [asyncio.create_task(rig.tokens(prompt="x")) for _ in range(5)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        rig.model.go.set()
        assert rig.count(Outcome.CANCELLED) == 5
        assert await rig.tokens(prompt="x") == [120]

    async def test_after_a_template_was_too_slow_chats_pause_and_texts_do_not(self, rig: Rig) -> None:
        chat = {"messages": [{"role": "user", "content": "x"}]}
        rig.model.fault = NoTokens(Outcome.SLOW, "the chat template took too long")
        assert await rig.tokens(Kind.CHAT, **chat) is None
        rig.model.fault = None
        assert await rig.tokens(Kind.CHAT, **chat) is None
        assert await rig.tokens(prompt="x") == [120]
        rig.clock.advance(PAUSE_SECONDS)
        assert await rig.tokens(Kind.CHAT, **chat) == [120]
        assert (rig.count(Outcome.SLOW), rig.count(Outcome.PAUSED)) == (1, 1)

    async def test_a_template_that_loops_gives_its_thread_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(folder, "RENDER_SECONDS", 0.02)
        loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
        tokeniser = open_tokeniser(str(write_model(tmp_path, loops)), WallClock(), max_model_len=None)
        assert await tokeniser.tokens(Kind.CHAT, HELLO) is None
        assert "took over" in caplog.text
        texts = [tokeniser.tokens(Kind.COMPLETION, TEXT) for _ in range(4 * module.THREADS)]
        assert None not in await asyncio.gather(*texts)
        tokeniser.close()

    async def test_the_event_loop_goes_on_while_a_long_prompt_is_tokenised(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 60.0)  # a machine may be busy with something else
        tokeniser = open_tokeniser(str(write_model(tmp_path)), WallClock(), max_model_len=None)
        task = asyncio.create_task(tokeniser.tokens(Kind.COMPLETION, fields(prompt=" ".join(TEXTS) * 200)))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 10
        assert await task
        tokeniser.close()


class TestOpening:
    async def test_a_folder_gives_the_models_own_tokens(self, tmp_path: Path) -> None:
        tokeniser = open_tokeniser(str(write_model(tmp_path)), WallClock(), max_model_len=None)
        text = "<|start|>user\nhello<|end|>\n<|start|>assistant\n"
        tokens = await tokeniser.tokens(Kind.CHAT, HELLO)
        assert tokens is not None
        assert tokens.tolist() == train().encode(text).ids
        tokeniser.close()

    async def test_emulated_engines_have_bytes(self) -> None:
        tokeniser = open_tokeniser("bytes", WallClock(), max_model_len=None)
        tokens = await tokeniser.tokens(Kind.CHAT, HELLO)
        assert tokens is not None
        assert tokens[0] == 258
        tokeniser.close()

    @pytest.mark.parametrize("setting", [None, "/nowhere/at/all"])
    async def test_without_a_tokenizer_only_token_ids_have_tokens(
        self, setting: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        tokeniser = open_tokeniser(setting, WallClock(), max_model_len=None)
        assert await tokeniser.tokens(Kind.COMPLETION, TEXT) is None
        assert await tokeniser.tokens(Kind.CHAT, HELLO) is None
        assert await tokeniser.tokens(Kind.COMPLETION, fields(prompt=[1])) is not None
        assert ("without exact tokens" in caplog.text) == (setting is not None)
        registry = CollectorRegistry()
        registry.register(tokeniser.metrics)
        page = generate_latest(registry).decode()
        assert "paceline_router_tokenizer_loaded 0.0" in page
        assert 'paceline_router_tokenise_total{outcome="missing"} 2.0' in page
        tokeniser.close()
