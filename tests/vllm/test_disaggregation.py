"""Prefill on one real engine and decode on the other gives the tokens of one engine, by hand and through the router."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import openai
import pytest

from paceline.api import wire
from tests.contract.engines import REMOTE_DECODE, TRANSFERRED, Engine, Json, complete, grown, metric, stream
from tests.vllm.engines import BLOCK_SIZE, MODEL, EnginePair, RouterProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

SENTENCE = "Engines change their role within a second, and the planner explains why in plain words. "


@dataclass(frozen=True)
class Case:
    """One request, as a client sends it."""

    name: str
    prompt: str | list[int] | list[dict[str, str]]
    tokens: int = 16
    streamed: bool = False
    counted: bool = True
    """Whether vLLM counts the transfer. It computes a prompt's last token again in any case, and where that is the only
    one, it counts the prompt as computed; the emulator counts what came."""

    @property
    def chat(self) -> bool:
        return isinstance(self.prompt, list) and isinstance(self.prompt[0], dict)

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def body(self) -> Json:
        """The request, in a cache of its own: no engine may know its prompt from an earlier one."""
        return {
            "model": MODEL,
            ("messages" if self.chat else "prompt"): self.prompt,
            "max_tokens": self.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "cache_salt": uuid4().hex,
        }


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


CASES = [
    Case("one character", "A", counted=False),
    Case("a word", "prefill"),
    Case("a word, streamed", "decode", streamed=True),
    Case("one token id", [70], counted=False),
    Case("a sentence", SENTENCE),
    Case("a sentence, streamed", SENTENCE[::-1], streamed=True),
    Case("exactly one block", list(range(10, 10 + BLOCK_SIZE))),
    Case("one token over a block", list(range(10, 11 + BLOCK_SIZE))),
    Case("one token short of two blocks", list(range(10, 9 + 2 * BLOCK_SIZE))),
    Case("exactly two blocks, streamed", list(range(20, 20 + 2 * BLOCK_SIZE)), streamed=True),
    Case("digits", "0123456789 " * 12),
    Case("other scripts", "Ünïcödé, 漢字, Ελληνικά and 🙂 in one prompt"),
    Case("a few blocks", SENTENCE * 5),
    Case("a few blocks, streamed", SENTENCE * 6, streamed=True),
    Case("many blocks", SENTENCE * 20),
    Case("many blocks, streamed", SENTENCE * 22, streamed=True),
    Case("longer than one batch of prompt tokens", SENTENCE * 60, tokens=8),
    Case("a long answer", "Count upwards: one, two, three,", tokens=80),
    Case("a long answer, streamed", "Count downwards: three, two, one,", tokens=80, streamed=True),
    Case("a single token", SENTENCE * 2, tokens=1),
    Case("a chat", [user("Which engine reads the prompt?")]),
    Case("a chat, streamed", [user("Which engine writes the answer?")], streamed=True),
    Case("a chat with a system prompt", [{"role": "system", "content": SENTENCE * 4}, user("Why?")]),
    Case(
        "a chat of several turns, streamed",
        [user("Say something."), {"role": "assistant", "content": SENTENCE}, user("And more."), user("Well?")],
        streamed=True,
    ),
]


async def token_ids(engine: Engine, case: Case, body: Json) -> list[int]:
    """Tokens of the answer, streamed where the case says so."""
    if not case.streamed:
        answer = await complete(engine, body, case.path)
        ids: list[int] = answer["choices"][0]["token_ids"]
        return ids
    events = await stream(engine, body, case.path)
    return [token for event in events for choice in event["choices"] for token in choice.get("token_ids") or ()]


async def apart(prefill: Engine, decode: Engine, case: Case) -> list[int]:
    """Tokens of the answer when the engines share the work, as the router has them do it."""
    body = case.body()
    first = await complete(prefill, body | {"max_tokens": 1, "kv_transfer_params": REMOTE_DECODE}, case.path)
    return await token_ids(decode, case, body | {"kv_transfer_params": first["kv_transfer_params"]})


async def transferred_since(decode: Engine, before: float, case: Case) -> bool:
    """Whether blocks came from the other engine. A transfer that must not be counted gets a second to show up."""
    seconds = 10.0 if case.counted else 1.0
    return await grown(decode, TRANSFERRED, before, seconds=seconds, source="external_kv_transfer") > 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_engines_that_share_the_work_give_the_tokens_of_one(pair: EnginePair, case: Case):
    a, b = pair.a.contract(), pair.b.contract()
    alone = await token_ids(a, case, case.body())
    assert len(alone) == case.tokens
    for prefill, decode in ((a, b), (b, a)):
        before = await metric(decode, TRANSFERRED, source="external_kv_transfer")
        assert await apart(prefill, decode, case) == alone
        assert await transferred_since(decode, before, case) is case.counted


def roles(pair: EnginePair, a: wire.Role, b: wire.Role) -> tuple[wire.EngineEndpoint, wire.EngineEndpoint]:
    return pair.a.endpoint(a), pair.b.endpoint(b)


@pytest.mark.parametrize("flipped", [False, True], ids=["a-to-b", "b-to-a"])
async def test_the_router_gives_the_tokens_of_one_engine_in_either_direction(
    pair: EnginePair, router: RouterProcess, flipped: bool
):
    """The roles are changed while the engines run: nothing is restarted."""
    sides = (wire.Role.DECODE, wire.Role.PREFILL) if flipped else (wire.Role.PREFILL, wire.Role.DECODE)
    router.assign(*roles(pair, *sides))
    a, b = pair.a.contract(), pair.b.contract()
    prefill, decode = (b, a) if flipped else (a, b)
    front = Engine(router.url, kv_events="", kv_replay="")
    for case in CASES[::3]:
        before = await metric(decode, TRANSFERRED, source="external_kv_transfer")
        alone = await token_ids(prefill, case, case.body())
        assert await token_ids(front, case, case.body()) == alone, case.name
        assert await transferred_since(decode, before, case) is case.counted, case.name


async def test_the_router_survives_a_prefill_engine_that_is_gone(pair: EnginePair, router: RouterProcess):
    case = Case("a few blocks", SENTENCE * 5)
    alone = await token_ids(pair.b.contract(), case, case.body())
    nobody = wire.EngineEndpoint(
        name="gone", host="127.0.0.1", port=9, role=wire.Role.PREFILL, state=wire.EngineState.READY, start_id="gone"
    )
    router.assign(nobody, pair.b.endpoint(wire.Role.DECODE))
    assert await token_ids(Engine(router.url, "", ""), case, case.body()) == alone


class TestOpenAIClient:
    """The ``openai`` package against the router."""

    @pytest.fixture
    async def client(self, router: RouterProcess) -> Any:
        async with openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0) as client:
            yield client

    async def test_it_lists_the_model(self, client: openai.AsyncOpenAI):
        assert [model.id async for model in client.models.list()] == [MODEL]

    async def test_completions_whole_and_streamed_say_the_same(self, client: openai.AsyncOpenAI):
        whole = await client.completions.create(model=MODEL, prompt=SENTENCE, max_tokens=20, temperature=0)
        pieces = await client.completions.create(
            model=MODEL, prompt=SENTENCE, max_tokens=20, temperature=0, stream=True
        )
        assert whole.choices[0].text
        assert "".join([piece.choices[0].text async for piece in pieces]) == whole.choices[0].text

    async def test_chats_whole_and_streamed_say_the_same_and_count_tokens(self, client: openai.AsyncOpenAI):
        messages: Any = [user("Who writes the answer?")]
        whole = await client.chat.completions.create(model=MODEL, messages=messages, max_tokens=20, temperature=0)
        pieces = await client.chat.completions.create(
            model=MODEL,
            messages=messages,
            max_tokens=20,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        events = [piece async for piece in pieces]
        text = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
        assert text == whole.choices[0].message.content
        assert events[-1].usage is not None
        assert whole.usage is not None
        assert events[-1].usage.completion_tokens == whole.usage.completion_tokens

    async def test_a_json_schema_is_kept_across_the_two_engines(self, client: openai.AsyncOpenAI):
        schema = {
            "type": "object",
            "properties": {"role": {"enum": ["prefill", "decode"]}, "ready": {"type": "boolean"}},
            "required": ["role", "ready"],
            "additionalProperties": False,
        }
        form: Any = {"type": "json_schema", "json_schema": {"name": "engine", "schema": schema}}
        answer = await client.chat.completions.create(
            model=MODEL, messages=[user("Describe an engine.")], max_tokens=60, temperature=0, response_format=form
        )
        described = json.loads(answer.choices[0].message.content or "")
        assert described["role"] in ("prefill", "decode")
        assert isinstance(described["ready"], bool)

    async def test_a_mistake_is_told_as_openai_tells_it(self, client: openai.AsyncOpenAI):
        with pytest.raises(openai.NotFoundError):
            await client.completions.create(model="other", prompt="x")
        with pytest.raises(openai.BadRequestError):
            await client.completions.create(model=MODEL, prompt="x", max_tokens=-1)
