"""Tenants of a resource, as the routers get them."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.api import wire
from paceline.errors import SpecError
from paceline.policy.resources import Images
from paceline.policy.resources.config import router_config
from paceline.policy.resources.router import router_children
from tests.api.documents import deployment

A = {"name": "a", "apiKeysSecret": {"name": "keys", "key": "of-a"}}
B = {"name": "b", "apiKeysSecret": {"name": "others", "key": "of-b"}}
PARSER = {"extraArgs": ["--reasoning-parser=qwen3"]}


def closed(*tenants: dict[str, Any], replicas: int = 1, **tenancy: Any) -> dict[str, Any]:
    return {
        "tenancy": {"mode": "ApiKeys", "tenants": list(tenants or (A, B)), **tenancy},
        "routing": {"replicas": replicas},
    }


def pod(**sections: Any) -> dict[str, Any]:
    spec: dict[str, Any] = router_children(deployment(**sections), images=Images()).pod_template["spec"]
    return spec


def test_without_tenancy_everybody_is_served_and_no_secret_is_mounted() -> None:
    assert router_config(deployment()).tenancy is None
    spec = pod()
    assert not any("projected" in volume for volume in spec["volumes"])
    assert "--tenant-keys" not in spec["containers"][0]["args"]


def test_the_keys_of_each_tenant_are_a_file_of_its_name_where_the_router_looks_for_them() -> None:
    spec = pod(**closed())
    (volume,) = [volume for volume in spec["volumes"] if "projected" in volume]
    files = {
        source["secret"]["items"][0]["path"]: (source["secret"]["name"], source["secret"]["items"][0]["key"])
        for source in volume["projected"]["sources"]
    }
    assert files == {"a": ("keys", "of-a"), "b": ("others", "of-b")}
    (mount,) = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == volume["name"]]
    arguments = spec["containers"][0]["args"]
    assert arguments[arguments.index("--tenant-keys") + 1] == mount["mountPath"]
    assert mount["readOnly"]
    assert "subPath" not in mount, "the kubelet would never renew it"


def test_a_secret_that_is_missing_keeps_no_router_from_starting() -> None:
    (volume,) = [volume for volume in pod(**closed())["volumes"] if "projected" in volume]
    assert all(source["secret"]["optional"] for source in volume["projected"]["sources"])


def test_no_key_passes_through_the_document_of_the_routers() -> None:
    document = wire.encode(router_config(deployment(**closed())))
    assert b"of-a" not in document
    assert b"keys" not in document.lower()


def test_terms_reach_the_router() -> None:
    terms = {"priority": 10, "shareWeight": 3, "models": ["Qwen/Qwen3-32B"], "tokensPerMinute": 600}
    found = router_config(deployment(**closed({**A, **terms, "maxRunningRequests": 4}))).tenancy
    assert found == wire.Tenancy(
        tenants=(
            wire.Tenant(
                name="a", priority=10, weight=3, tokens_per_minute=600, max_running_requests=4,
                models=("Qwen/Qwen3-32B",),
            ),
        )
    )  # fmt: skip


def test_caches_are_kept_apart_unless_they_are_to_be_shared() -> None:
    alone, shared = (router_config(deployment(**closed(**more))).tenancy for more in ({}, {"cacheIsolation": "Shared"}))
    assert alone is not None
    assert shared is not None
    assert (alone.isolate_caches, shared.isolate_caches) == (True, False)


def test_each_router_gives_its_part_of_a_limit_so_that_the_sum_is_never_above() -> None:
    limits = {"tokensPerMinute": 1000, "maxRunningRequests": 2}
    found = router_config(deployment(**closed({**A, **limits}, replicas=3))).tenancy
    assert found is not None
    assert (found.tenants[0].tokens_per_minute, found.tenants[0].max_running_requests) == (333, 1)


def test_a_limit_on_reasoning_is_the_tenant_s_own_or_that_of_all() -> None:
    sections = closed({**A, "reasoningTokens": 5}, B, reasoningTokens=50)
    found = router_config(deployment(engine=PARSER, **sections))
    assert found.tenancy is not None
    assert [tenant.reasoning_tokens for tenant in found.tenancy.tenants] == [5, 50]
    assert found.reasoning_tokens == 50


def test_a_limit_on_reasoning_is_refused_where_engines_would_refuse_every_request_with_one() -> None:
    with pytest.raises(SpecError, match=r"spec\.tenancy\.reasoningTokens: needs engines .*--reasoning-parser"):
        router_config(deployment(tenancy={"reasoningTokens": 100}))
    with pytest.raises(SpecError, match=r"spec\.tenancy\.tenants\[0\]\.reasoningTokens"):
        router_config(deployment(**closed({**A, "reasoningTokens": 5})))
    assert router_config(deployment(engine=PARSER, tenancy={"reasoningTokens": 7})).reasoning_tokens == 7


def test_a_tenant_s_model_must_be_one_that_is_served() -> None:
    with pytest.raises(
        SpecError, match=r"tenants\[1\]\.models: is not served here; use Qwen/Qwen3-32B \(found other\)"
    ):
        router_config(deployment(**closed(A, {**B, "models": ["other"]})))


def test_input_and_output_limits_are_parted_among_routers_too() -> None:
    limits = {"inputTokensPerMinute": 900, "outputTokensPerMinute": 90}
    found = router_config(deployment(**closed({**A, **limits}, replicas=3))).tenancy
    assert found is not None
    assert (found.tenants[0].input_tokens_per_minute, found.tenants[0].output_tokens_per_minute) == (300, 30)


def test_a_class_may_limit_reasoning_where_engines_know_where_it_ends() -> None:
    slo = {"ttftMilliseconds": 1000, "itlMilliseconds": 50}
    slo |= {"classes": [{"name": "fast", "ttftMilliseconds": 100, "itlMilliseconds": 50, "reasoningTokens": 9}]}
    assert router_config(deployment(engine=PARSER, slo=slo)).classes[0].reasoning_tokens == 9
    with pytest.raises(SpecError, match=r"spec\.slo\.classes\[0\]\.reasoningTokens: needs engines"):
        router_config(deployment(slo=slo))
