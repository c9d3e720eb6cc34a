"""What the router serves, and how it refuses what it does not; with the real OpenAI client as its client."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest

from paceline.api import wire
from tests.worker.router.fakes import LONG, MODEL, FakeEngine, bench, event, status, stream_of

PREFILL = wire.Role.PREFILL


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics", 404),
        ("POST", "/v1/unknown", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
    ],
)
async def test_what_is_not_served_is_an_error_object(tmp_path: Path, method: str, path: str, code: int) -> None:
    async with bench(tmp_path, FakeEngine("a")) as router:
        reply = await router.client.request(method, path)
    assert reply.status_code == code
    assert reply.json()["error"]["code"] == code
    assert ("allow" in reply.headers) == (code == 405)
    assert reply.headers["x-request-id"]


async def test_a_wrong_body_is_answered_without_asking_an_engine(tmp_path: Path) -> None:
    engine = FakeEngine("a")
    async with bench(tmp_path, engine) as router:
        assert (await router.complete(max_tokens=0)).json()["error"]["param"] == "max_tokens"
        assert (await router.client.post("/v1/completions", content=b"{")).status_code == 400
        too_long = await router.client.post("/v1/completions", content=b"x" * (33 << 20))
        assert await router.metric("http_refused_total", status="413") == 1
    assert too_long.status_code == 413
    assert engine.seen == []


async def test_the_models_are_listed_with_their_adapters(tmp_path: Path) -> None:
    async with (
        bench(tmp_path, FakeEngine("a")) as router,
        openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none") as client,
    ):
        models = [model async for model in client.models.list()]
    assert [model.id for model in models] == [MODEL, "alias", "adapter"]


async def test_the_openai_client_gets_completions_and_chats_streamed_and_not(tmp_path: Path) -> None:
    engine, prefill = FakeEngine("a"), FakeEngine("p", role=PREFILL)
    async with (
        bench(tmp_path, engine, prefill) as router,
        openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none") as client,
    ):
        whole = await client.completions.create(model=MODEL, prompt=LONG, max_tokens=3)
        assert whole.choices[0].text == "from a"
        stream = await client.completions.create(model=MODEL, prompt=LONG, stream=True)
        assert "".join([chunk.choices[0].text async for chunk in stream]) == "a:0 a:1 a:2 a:3 a:4 "
        await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
    assert [seen.path for seen in engine.seen] == ["/v1/completions", "/v1/completions", "/v1/chat/completions"]


async def test_the_openai_client_understands_the_router_s_errors(tmp_path: Path) -> None:
    engine = FakeEngine("a")
    async with (
        bench(tmp_path, engine) as router,
        openai.AsyncOpenAI(base_url=f"{router.url}/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.completions.create(model="unknown", prompt="x")
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            await client.completions.create(model=MODEL, prompt="x", max_tokens=0)
        engine.behaviour = status(500)
        with pytest.raises(openai.InternalServerError):
            await client.completions.create(model=MODEL, prompt="x")
        engine.behaviour = stream_of(event("a"), cut=True)
        stream = await client.completions.create(model=MODEL, prompt="x", stream=True)
        with pytest.raises(openai.APIError, match="closed the connection"):
            [chunk async for chunk in stream]
