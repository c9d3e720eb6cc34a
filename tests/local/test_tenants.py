"""Tenants on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from paceline.api import wire
from paceline.api.v1alpha1 import ModelDeployment
from paceline.errors import ConfigError
from paceline.local.tenants import a_key_of_each
from paceline.traces.record import TraceRequest
from tests.api.documents import deployment, sample
from tests.local.test_load import Replay, replay, server, whole
from tests.local.test_plan import plan

__all__ = ["replay", "server"]  # fixtures


def tenants(**more: Any) -> ModelDeployment:
    closed = [{"name": name, "apiKeysSecret": {"name": "s", "key": "k"}, **more} for name in ("a", "b")]
    return deployment(tenancy={"mode": "ApiKeys", "tenants": closed})


def test_the_router_looks_for_keys_in_the_folder_that_the_user_names(tmp_path: Path) -> None:
    argv = plan(sample("tenants"), tenant_keys=tmp_path).router.launch().program.argv
    assert argv[argv.index("--tenant-keys") + 1] == str(tmp_path)
    assert argv.count("--tenant-keys") == 1


def test_the_one_router_here_gives_whole_limits(tmp_path: Path) -> None:
    env = plan(tenants(tokensPerMinute=1000), tenant_keys=tmp_path).router.launch().program.env
    config = wire.decode(wire.RouterConfig, env["PACELINE_ROUTER_CONFIG"], source="test")
    assert config.tenancy is not None
    assert config.tenancy.tenants[0].tokens_per_minute == 1000


def test_tls_is_left_to_clusters_for_its_secrets_are_there() -> None:
    secret = {"certificateSecret": "x"}
    planned = plan(deployment(routing={"tls": secret}, engine={"tls": secret}))
    config = wire.decode(
        wire.RouterConfig, planned.router.launch().program.env["PACELINE_ROUTER_CONFIG"], source="test"
    )
    assert (config.tls, config.engine_tls) == (None, None)


def test_tenants_without_a_folder_of_keys_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"--tenant-keys: missing.* for each of: a, b\."):
        plan(tenants())


def test_a_folder_that_is_none_or_that_nobody_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--tenant-keys: .*nowhere is not a folder"):
        plan(tenants(), tenant_keys=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="leave it out"):
        plan(sample("quickstart"), tenant_keys=tmp_path)


def test_the_load_has_a_key_of_each_tenant_that_has_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("# the first\n\none-key-of-a\nanother\n")
    assert a_key_of_each(tenants(), tmp_path) == ("one-key-of-a",)
    (tmp_path / "b").write_text("key-of-b")
    assert a_key_of_each(tenants(), tmp_path) == ("one-key-of-a", "key-of-b")
    assert a_key_of_each(sample("quickstart"), None) == ()
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="can't be read"):
        a_key_of_each(tenants(), tmp_path)


async def test_sessions_keep_to_one_tenant_and_all_tenants_have_some(replay: Replay) -> None:
    seen: dict[str, set[str]] = {}

    async def answer(http: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.setdefault(http.headers["authorization"], set()).add(str(len(body["prompt"])))
        return await whole(http, body)

    requests = [TraceRequest(0.0, 10 + number % 8, 3, (), session=f"s{number % 8}") for number in range(16)]
    result = await replay(answer, *requests, keys=("one", "two"))
    assert [one.error for one in result.requests] == [None] * 16
    assert seen.keys() == {"Bearer one", "Bearer two"}
    assert not seen["Bearer one"] & seen["Bearer two"]
