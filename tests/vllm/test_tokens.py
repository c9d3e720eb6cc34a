"""The router's tokens are the engine's: on vLLM's own code for many templates, and on a running engine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from paceline.clock import WallClock
from paceline_worker.router.parse import Kind
from paceline_worker.router.tokens.tokeniser import open_tokeniser
from tests.vllm import tiny_model
from tests.vllm.engines import MODEL, EngineProcess
from tests.worker.router.tokens import models
from tests.worker.router.tokens.corpus import CHAT_ENDPOINT_ONLY, CHATS, REFUSED, TEXTS

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

FOLDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "roles and tools": (models.CHATML, {}),
    "content in parts": (models.PARTS, {"add_bos_token": True, "extra_special_tokens": ["<|new|>"]}),
    "trims and raises": (models.STRICT, {"tokenizer": models.train(begins=True), "image_token": "<|image|>"}),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a template that knows tools; the tokenizer puts a token before every text."""
    made = tiny_model.make(tmp_path_factory.mktemp("tokens"))
    return models.write_model(made, models.CHATML, tokenizer=models.train(begins=True))


@pytest.fixture(scope="module")
def engine(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """One running engine of it."""
    process = EngineProcess("tokens", folder, tmp_path_factory.mktemp("engine"))
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        process.stop()


def ours(folder: Path, kind: Kind, body: dict[str, Any]) -> list[int] | None:
    async def ask() -> list[int] | None:
        tokeniser = open_tokeniser(str(folder), WallClock(), max_model_len=None)
        try:
            fields = msgspec.json.decode(msgspec.json.encode(body), type=dict[str, msgspec.Raw])
            # Twice: from the cache it must be the same.
            first = await tokeniser.tokens(kind, fields)
            assert await tokeniser.tokens(kind, fields) == first
            return None if first is None else first.tolist()
        finally:
            tokeniser.close()

    return asyncio.run(ask())


def post(engine: EngineProcess, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{engine.api}{path}", json={"model": MODEL, **body}, trust_env=False, timeout=120)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


class TestRunningEngine:
    @pytest.mark.parametrize("special_tokens", [True, False])
    @pytest.mark.parametrize("text", TEXTS)
    def test_texts(self, engine: EngineProcess, folder: Path, text: str, special_tokens: bool) -> None:
        body = {"prompt": text, "add_special_tokens": special_tokens}
        assert ours(folder, Kind.COMPLETION, body) == post(engine, "/tokenize", body)["tokens"]

    @pytest.mark.parametrize("chat", CHATS)
    def test_conversations(self, engine: EngineProcess, folder: Path, chat: dict[str, Any]) -> None:
        assert ours(folder, Kind.CHAT, chat) == post(engine, "/tokenize", chat)["tokens"]

    @pytest.mark.parametrize("chat", [CHATS[1], CHATS[9], CHATS[10], CHATS[11], *CHAT_ENDPOINT_ONLY])
    def test_conversations_that_are_answered(self, engine: EngineProcess, folder: Path, chat: dict[str, Any]) -> None:
        body = {**chat, "max_tokens": 1, "return_token_ids": True}
        assert ours(folder, Kind.CHAT, body) == post(engine, "/v1/chat/completions", body)["prompt_token_ids"]

    def test_completions_that_are_answered(self, engine: EngineProcess, folder: Path) -> None:
        body = {"prompt": TEXTS[7], "max_tokens": 1, "return_token_ids": True}
        answer = post(engine, "/v1/completions", body)
        assert ours(folder, Kind.COMPLETION, body) == answer["choices"][0]["prompt_token_ids"]


class Reference:
    """vLLM's own way from a request to tokens, without an engine."""

    def __init__(self, folder: Path) -> None:
        from vllm.config import ModelConfig, VllmConfig
        from vllm.renderers.online_renderer import OnlineRenderer
        from vllm.renderers.registry import renderer_from_config

        config = ModelConfig(model=str(folder))
        self._renderer = OnlineRenderer(
            config,
            renderer_from_config(VllmConfig(model_config=config)),
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
        )

    def chat(self, body: dict[str, Any]) -> list[int] | None:
        """Tokens of a chat; None when it is refused."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.exceptions import VLLMValidationError

        try:
            # Reading a request changes what is read.
            request = ChatCompletionRequest(**json.loads(json.dumps(body)))
            _, (prompt,) = asyncio.run(self._renderer.render_chat(request))
        except (ValueError, VLLMValidationError):
            return None
        return list(prompt["prompt_token_ids"])


@pytest.fixture(scope="module", params=FOLDERS)
def reference(
    request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Reference]:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    template, config = FOLDERS[request.param]
    folder = models.write_model(tmp_path_factory.mktemp("folder"), template, **config)
    shutil.copy(model / "config.json", folder)
    return folder, Reference(folder)


@pytest.mark.filterwarnings("default")  # importing vLLM makes torch warn of itself
@pytest.mark.parametrize("chat", [*CHATS, *CHAT_ENDPOINT_ONLY, *REFUSED])
def test_templates_of_all_kinds_give_vllms_tokens(reference: tuple[Path, Reference], chat: dict[str, Any]) -> None:
    folder, vllm = reference
    assert ours(folder, Kind.CHAT, chat) == vllm.chat(chat)
