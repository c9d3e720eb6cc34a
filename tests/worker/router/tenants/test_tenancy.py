"""The router with tenants, over HTTP and with the openai client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from paceline.api import wire
from paceline.errors import ConfigError
from tests.waiting import until
from tests.worker.router.fakes import MODEL, Bench, FakeEngine, bench, config, hang, status

KEYS = {"a": "key-of-a-0123456789", "b": "key-of-b-0123456789"}
UNAUTHORIZED = {
    "error": {
        "message": "A valid API key is needed: Authorization: Bearer KEY.", "type": "authentication_error",
        "param": None, "code": 401,
    }
}  # fmt: skip


def bearer(tenant: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[tenant]}"}


@asynccontextmanager
async def closed(
    tmp_path: Path, *engines: FakeEngine, a: dict[str, Any] | None = None, **changes: Any
) -> AsyncIterator[Bench]:
    """A router with tenants a and b; ``a``: terms of a."""
    folder = tmp_path / "keys"
    folder.mkdir()
    for tenant, key in KEYS.items():
        (folder / tenant).write_text(key)
    tenants = (wire.Tenant(name="a", **(a or {})), wire.Tenant(name="b"))
    isolate = changes.pop("isolate_caches", True)
    tenancy = wire.Tenancy(tenants=tenants, isolate_caches=isolate)
    async with bench(tmp_path, *engines, tenant_keys=folder, tenancy=tenancy, **changes) as running:
        yield running


def engine(**how: Any) -> FakeEngine:
    return FakeEngine("one", role=wire.Role.BOTH, **how)


async def complete(running: Bench, tenant: str, prompt: object = "hello", **body: object) -> httpx.Response:
    document = {"model": MODEL, "prompt": prompt, **body}
    return await running.client.post("/v1/completions", json=document, headers=bearer(tenant))


async def test_whoever_has_no_valid_key_gets_one_and_the_same_answer(tmp_path: Path) -> None:
    async with closed(tmp_path, engine()) as running:
        answers = [
            await running.client.post("/v1/completions", json={"model": MODEL, "prompt": "x"}, headers=headers)
            for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEYS["a"]})
        ]
        answers += [await running.client.get(path) for path in ("/v1/models", "/nowhere")]
        assert {answer.status_code for answer in answers} == {401}
        assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
        assert all(answer.json() == UNAUTHORIZED for answer in answers)
        assert running.engines[0].seen == []
        assert await running.metric("requests_total", outcome="unauthorized", path="/v1/completions") == 3


async def test_a_key_opens_and_goes_no_further_than_the_router(tmp_path: Path) -> None:
    async with closed(tmp_path, engine()) as running:
        assert (await complete(running, "a")).status_code == 200
        assert b"authorization" not in running.engines[0].seen[0].headers
        assert (await running.client.get("/v1/models", headers=bearer("b"))).status_code == 200


async def test_health_needs_no_key(tmp_path: Path) -> None:
    async with closed(tmp_path, engine()) as running:
        await until(lambda: any(one.usable for one in running.router.fleet))
        assert (await running.client.get("/health")).status_code == 200


async def test_keys_change_without_a_restart(tmp_path: Path) -> None:
    async with closed(tmp_path, engine()) as running:
        (tmp_path / "keys" / "a").write_text("a-new-key-of-a-0123")
        async with asyncio.timeout(30):
            while (await complete(running, "a")).status_code != 401:  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.05)
        again = await running.client.post(
            "/v1/completions",
            json={"model": MODEL, "prompt": "x"},
            headers={"authorization": "Bearer a-new-key-of-a-0123"},
        )
        assert again.status_code == 200
        assert (await complete(running, "b")).status_code == 200


async def test_the_openai_client_works_with_the_right_key_and_says_so_with_a_wrong_one(tmp_path: Path) -> None:
    async with closed(tmp_path, engine()) as running:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=KEYS["a"], max_retries=0) as client:
            answer = await client.completions.create(model=MODEL, prompt="hello")
            assert answer.choices[0].text == "from one"
            stream = await client.completions.create(model=MODEL, prompt="hello", stream=True)
            assert len([event async for event in stream]) == running.engines[0].chunks
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError, match="A valid API key is needed"):
                await client.completions.create(model=MODEL, prompt="hello")


async def test_the_openai_client_waits_as_it_is_told_and_is_served(tmp_path: Path) -> None:
    terms = {"tokens_per_minute": 6000}
    async with closed(tmp_path, engine(), a=terms) as running:
        client = openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=KEYS["a"], max_retries=3)
        async with client:
            ids = [1] * 5800
            await client.completions.create(model=MODEL, prompt=ids, max_tokens=1)
            again = await client.completions.create(model=MODEL, prompt=[2] * 280, max_tokens=1)
            assert again.choices[0].text == "from one"
        assert await running.metric("tenant_limited_total", tenant="a", limit="tokens") >= 1


async def test_a_tenant_that_used_its_tokens_is_told_when_to_come_again_and_others_are_served(tmp_path: Path) -> None:
    async with closed(tmp_path, engine(), a={"tokens_per_minute": 600}) as running:
        assert (await complete(running, "a", [1] * 590, max_tokens=1)).status_code == 200
        refused = await complete(running, "a", [2] * 200, max_tokens=1)
        assert refused.status_code == 429
        assert 18 <= int(refused.headers["retry-after"]) <= 20
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert (await complete(running, "b", [3] * 200)).status_code == 200
        assert await running.metric("requests_total", outcome="limited", path="/v1/completions") == 1
        missed = await running.metric("slo_requests_total", **{"class": "default", "met": "no"})
        assert missed == 0, "a tenant's own limit is no fault of the deployment"
        assert await running.metric("prompt_tokens_at_arrival_count", kind="uncached") == 2, "nor a demand"


async def test_a_tenant_has_no_more_requests_at_a_time_than_it_may(tmp_path: Path) -> None:
    one = engine(behaviour=hang)
    async with closed(tmp_path, one, a={"max_running_requests": 1}) as running:
        first = asyncio.create_task(complete(running, "a"))
        await one.hanging.wait()
        refused = await complete(running, "a")
        assert (refused.status_code, int(refused.headers["retry-after"]) >= 1) == (429, True)
        first.cancel()
        await one.abandoned.wait()
        await until(lambda: running.router.metrics.registry.get_sample_value(
            "paceline_router_tenant_running_requests", {"tenant": "a"}) == 0)  # fmt: skip


async def test_a_tenant_sees_the_models_that_it_may_use_and_no_others(tmp_path: Path) -> None:
    async with closed(tmp_path, engine(), a={"models": ("adapter",)}) as running:
        listed = (await running.client.get("/v1/models", headers=bearer("a"))).json()["data"]
        assert [model["id"] for model in listed] == ["adapter"]
        other = await complete(running, "a")
        assert (other.status_code, other.json()["error"]["param"]) == (404, "model")
        assert MODEL not in other.json()["error"]["message"].partition("served are")[2]
        unnamed = await running.client.post("/v1/completions", json={"prompt": "x"}, headers=bearer("a"))
        assert (unnamed.status_code, unnamed.json()["error"]["param"]) == (400, "model")
        named = await running.client.post(
            "/v1/completions", json={"model": "adapter", "prompt": "x"}, headers=bearer("a")
        )
        assert named.status_code == 200
        assert (await complete(running, "b")).status_code == 200


async def test_caches_of_tenants_are_apart_or_shared_as_the_resource_says(tmp_path: Path) -> None:
    for name, isolate in (("apart", True), ("shared", False)):
        folder = tmp_path / name
        folder.mkdir()
        async with closed(folder, engine(), isolate_caches=isolate) as running:
            for tenant in KEYS:
                await complete(running, tenant, cache_salt="own")
                await complete(running, tenant)
            salts = [seen.body.get("cache_salt") for seen in running.engines[0].seen]
            assert (len(set(salts)) == 4) is isolate
            assert (salts == ["own", None, "own", None]) is not isolate


async def test_reasoning_is_limited_for_a_tenant_and_where_there_are_none(tmp_path: Path) -> None:
    for name, opened in (("tenants", closed), ("open", bench)):
        folder = tmp_path / name
        folder.mkdir()
        more: dict[str, Any] = {"a": {"reasoning_tokens": 30}} if opened is closed else {"reasoning_tokens": 30}
        async with opened(folder, engine(), **more) as running:  # type: ignore[operator]
            await complete(running, "a", thinking_token_budget=99)
            assert running.engines[0].seen[0].body["thinking_token_budget"] == 30


async def test_a_class_limits_reasoning_beside_its_tenant(tmp_path: Path) -> None:
    one = engine()
    fast = wire.RequestClass(
        name="fast", priority=0, objective=wire.Objective(ttft_milliseconds=1, itl_milliseconds=1), reasoning_tokens=5
    )
    async with closed(tmp_path, one, a={"reasoning_tokens": 9}, classes=(fast,)) as running:
        for headers in (bearer("a"), bearer("b")):
            for hint in ({}, {"x-paceline-class": "fast"}):
                body = {"model": MODEL, "prompt": "hello"}
                await running.client.post("/v1/completions", json=body, headers={**headers, **hint})
    assert [seen.body.get("thinking_token_budget") for seen in one.seen] == [9, 5, None, 5]


async def test_a_class_limits_reasoning_where_there_are_no_tenants(tmp_path: Path) -> None:
    one = engine()
    fast = wire.RequestClass(
        name="fast", priority=0, objective=wire.Objective(ttft_milliseconds=1, itl_milliseconds=1), reasoning_tokens=5
    )
    async with bench(tmp_path, one, classes=(fast,)) as running:
        body = {"model": MODEL, "prompt": "hello", "thinking_token_budget": 50}
        for hint in ({}, {"x-paceline-class": "fast"}):
            await running.client.post("/v1/completions", json=body, headers=hint)
    assert [seen.body.get("thinking_token_budget") for seen in one.seen] == [50, 5]


async def test_output_alone_may_be_limited(tmp_path: Path) -> None:
    async with closed(tmp_path, engine(), a={"output_tokens_per_minute": 60}) as running:
        assert (await complete(running, "a", [1] * 5000, max_tokens=60)).status_code == 200
        refused = await complete(running, "a", max_tokens=60)
        assert refused.status_code == 429
        assert "output tokens" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) <= 60
        assert await running.metric("tenant_limited_total", tenant="a", limit="output_tokens") == 1
        assert await running.metric("tenant_quota_tokens", tenant="a", limit="output_tokens") == 60


async def test_usage_is_on_the_page_by_tenant(tmp_path: Path) -> None:
    async with closed(tmp_path, engine()) as running:
        await complete(running, "a", [1] * 40)
        await complete(running, "a", [1] * 40, stream=True)
        await running.client.post("/v1/completions", json={}, headers=bearer("b"))
        assert await running.metric("tenant_requests_total", tenant="a", outcome="ok") == 2
        assert await running.metric("tenant_requests_total", tenant="b", outcome="client_error") == 1
        used = [await running.metric("tenant_prompt_tokens_total", tenant="a", kind=kind) for kind in ("cached", "uncached")]  # fmt: skip  # noqa: E501
        assert sum(used) == 80
        assert await running.metric("tenant_output_tokens_total", tenant="a") >= 1 + 3
        assert await running.metric("tenant_keys", tenant="a") == 1


async def test_what_engines_failed_to_serve_is_not_charged(tmp_path: Path) -> None:
    async with closed(tmp_path, engine(behaviour=status(500)), a={"tokens_per_minute": 600}) as running:
        assert (await complete(running, "a", [1] * 500)).status_code == 500
        assert await running.metric("tenant_prompt_tokens_total", tenant="a", kind="uncached") == 0
        assert await running.metric("tenant_quota_left_tokens", tenant="a", limit="tokens") == 600


async def test_most_tenants_have_a_label_of_their_own_and_the_rest_one_together(tmp_path: Path) -> None:
    tenants = tuple(wire.Tenant(name=f"t{number}", tokens_per_minute=60) for number in range(256))
    (tmp_path / "t255").write_text(KEYS["a"])
    async with bench(tmp_path, engine(), tenant_keys=tmp_path, tenancy=wire.Tenancy(tenants=tenants)) as running:
        await complete(running, "a", "x")
        page = running.router.metrics.render().decode()
        shown = {line.split('tenant="')[1].split('"')[0] for line in page.splitlines() if 'tenant="' in line}
        assert len(shown) == 101
        assert await running.metric("tenant_requests_total", tenant="other", outcome="ok") == 1


async def test_waiting_tenants_take_turns(tmp_path: Path) -> None:
    one = engine(behaviour=hang)
    admission = wire.Admission(max_running_per_engine=1)
    async with closed(tmp_path, one, admission=admission) as running:
        blocker = asyncio.create_task(complete(running, "a", "first"))
        await one.hanging.wait()
        waiting = [asyncio.create_task(complete(running, "a", f"a{number}")) for number in range(6)]
        await until(lambda: running.router.gate.waiting == 6)
        waiting.append(asyncio.create_task(complete(running, "b", "b0")))
        await until(lambda: running.router.gate.waiting == 7)
        one.behaviour = FakeEngine("x").behaviour
        blocker.cancel()
        await asyncio.gather(*waiting)
        order = [seen.body["prompt"] for seen in one.seen[1:]]
        assert order.index("b0") <= 1, order


def test_a_router_with_tenants_and_no_place_of_their_keys_does_not_start(tmp_path: Path) -> None:
    async def start() -> None:
        async with bench(tmp_path, tenancy=wire.Tenancy(tenants=(wire.Tenant(name="a"),))):
            raise AssertionError("it serves")

    with pytest.raises(ConfigError, match="nobody is served"):
        asyncio.run(start())


def test_its_flag_is_asked_for() -> None:
    from paceline_worker.router.settings import CONFIG_ENV, read

    document = wire.encode(config(tenancy=wire.Tenancy(tenants=(wire.Tenant(name="a"),)))).decode()
    flags = ["--port", "0", "--admin-port", "0", "--fleet-file", "fleet.json"]
    with pytest.raises(ConfigError, match="--tenant-keys: missing"):
        read(flags, {CONFIG_ENV: document})
    assert read([*flags, "--tenant-keys", "keys"], {CONFIG_ENV: document}).tenant_keys == Path("keys")
