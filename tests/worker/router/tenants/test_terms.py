"""A tenant's terms are in its requests before an engine sees them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from paceline.api import wire
from paceline_worker.router.errors import ApiError
from paceline_worker.router.hints import Hints
from paceline_worker.router.parse import Call, Kind, Rules, parse
from paceline_worker.router.tenants.terms import Terms

RULES = Rules(frozenset({"m"}), frozenset(), max_model_len=1000)
A = wire.Tenant(name="a", priority=7, weight=3)


def call(**fields: Any) -> Call:
    return parse(Kind.COMPLETION, msgspec.json.encode({"model": "m", "prompt": "hello", **fields}), RULES)


def body(found: Call) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.json.decode(found.body())
    return document


def salt(tenant: str, **fields: Any) -> str:
    found = Terms(reasoning_tokens=None, tenant=wire.Tenant(name=tenant), isolate=True).impose(call(**fields))
    assert body(found)["cache_salt"] == found.salt
    assert found.salt is not None
    return found.salt


def test_a_request_carries_its_tenant_s_standing_and_weight() -> None:
    found = Terms(reasoning_tokens=None, tenant=A).impose(call())
    assert (found.view.tenant, found.view.weight, found.standing) == ("a", 3, 7)
    assert "cache_salt" not in body(found)


def test_tenants_whose_caches_are_apart_never_have_a_salt_in_common_whatever_they_ask_for() -> None:
    mine = {salt("a"), salt("a", cache_salt="b"), salt("a", cache_salt="own"), salt("a", cache_salt=None)}
    others = {salt("b"), salt("b", cache_salt="a"), salt("b", cache_salt="own"), salt("b", cache_salt=salt("a"))}
    assert not mine & others
    assert len(mine) == 3


@pytest.mark.parametrize("own", ["x" * 500, "a/b", "\\", "@", "é"])
def test_salts_have_the_form_that_vllm_accepts(own: str) -> None:
    made = salt("t" * 63, cache_salt=own)
    assert 0 < len(made) <= 128
    assert not set(made) & set("@/\\\0")


@pytest.mark.parametrize(
    ("asked", "given"), [({}, 50), ({"thinking_token_budget": 10}, 10), ({"thinking_token_budget": 80}, 50),
                         ({"thinking_token_budget": -1}, 50), ({"thinking_token_budget": None}, 50),
                         ({"thinking_token_budget": 0}, 0)],
)  # fmt: skip
def test_reasoning_is_limited_to_what_is_allowed_and_may_be_asked_to_be_less(asked: dict[str, Any], given: int) -> None:
    for terms in (Terms(reasoning_tokens=50), Terms(reasoning_tokens=50, tenant=A)):
        assert body(terms.impose(call(**asked)))["thinking_token_budget"] == given


def test_a_limit_on_reasoning_that_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(ApiError, match="thinking_token_budget: must be an integer"):
        Terms(reasoning_tokens=50).impose(call(thinking_token_budget="much"))


def test_without_a_limit_on_reasoning_the_field_is_the_client_s() -> None:
    assert body(Terms(reasoning_tokens=None, tenant=A).impose(call(thinking_token_budget=9)))[
        "thinking_token_budget"
    ] == 9  # fmt: skip


def test_a_tenant_can_step_back_behind_others_and_not_in_front_of_them() -> None:
    terms = Terms(reasoning_tokens=None, tenant=A)
    eager, patient = terms.impose(call(priority=-5)), terms.impose(call(priority=5))
    assert (eager.view.priority, patient.view.priority) == (0, -5)
    assert "priority" not in body(eager)
    assert body(patient)["priority"] == 5
    assert terms.limit(Hints(priority=100), 0).priority == 0
    assert terms.limit(Hints(priority=100), 50).priority == 50
    assert terms.limit(Hints(priority=-100), 0).priority == -100
    assert terms.limit(Hints(), 0).priority is None


def test_sessions_of_two_tenants_are_two_even_where_they_have_one_name() -> None:
    hints = Hints(session="s", parent="p")
    mine, other = (Terms(reasoning_tokens=None, tenant=wire.Tenant(name=name)).limit(hints, 0) for name in ("a", "b"))
    assert (mine.session, mine.parent) != (other.session, other.parent)
    assert Terms(reasoning_tokens=5).limit(hints, 0) == hints


def test_who_is_no_tenant_has_the_priority_it_asks_for() -> None:
    terms = Terms(reasoning_tokens=5)
    assert terms.impose(call(priority=-5)).view.priority == 5
    assert terms.limit(Hints(priority=100), 0).priority == 100


@pytest.mark.parametrize(
    ("own", "of_class", "asked", "given"),
    [
        (None, 30, None, 30), (50, 30, None, 30), (20, 30, None, 20), (50, 30, 10, 10), (50, 30, 40, 30),
        (50, None, 60, 50), (None, 0, 5, 0), (None, 30, -1, 30),
    ],
)  # fmt: skip
def test_of_the_limits_of_tenant_and_class_the_lower_one_holds(
    own: int | None, of_class: int | None, asked: int | None, given: int
) -> None:
    fields = {} if asked is None else {"thinking_token_budget": asked}
    for tenant in (None, A):
        found = Terms(reasoning_tokens=own, tenant=tenant).impose(call(**fields), class_reasoning_tokens=of_class)
        assert body(found)["thinking_token_budget"] == given
