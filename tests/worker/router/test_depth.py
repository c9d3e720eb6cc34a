"""JSON that nests too deep is known without a parse, whatever stands in its strings."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_worker.router.depth import MAX_BRACKETS, MAX_DEPTH, too_deep
from paceline_worker.router.errors import ApiError
from paceline_worker.router.parse import Kind, Rules, parse

RULES = Rules(frozenset({"m"}), frozenset(), None)


def nested(levels: int, inner: bytes = b"") -> bytes:
    return b"[" * levels + inner + b"]" * levels


def depth(value: Any) -> int:
    if isinstance(value, dict | list):
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


def test_the_limit_itself_is_allowed() -> None:
    assert not too_deep(nested(MAX_DEPTH))
    assert too_deep(nested(MAX_DEPTH + 1))


def test_many_messages_side_by_side_are_not_deep() -> None:
    assert not too_deep(json.dumps({"messages": [{"role": "user", "content": "hi"}] * 1000}).encode())


@pytest.mark.parametrize("text", ["[" * 500, "{" * 500, '\\"' + "[" * 500, "\\", '"', '\\\\"[', "a\\"], ids=repr)
def test_brackets_in_strings_do_not_count(text: str) -> None:
    assert not too_deep(json.dumps({text: [text, {"x": text}], "many": [[]] * 200}).encode())


def test_more_brackets_than_are_looked_at_are_too_many() -> None:
    assert too_deep(b"[" + b"[]," * (MAX_BRACKETS // 2) + b"[]]")


VALUES = st.recursive(
    st.text(alphabet='ab\\"[]{} é', max_size=8) | st.integers(0, 9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(alphabet='a"\\[', max_size=3), inner, max_size=3)
    ),
)


@given(value=VALUES, wrapped=st.integers(MAX_DEPTH - 8, MAX_DEPTH + 2))
def test_it_agrees_with_a_count_of_levels(value: Any, wrapped: int) -> None:
    for ascii_only in (True, False):
        text = nested(wrapped, json.dumps([value], ensure_ascii=ascii_only).encode())
        assert too_deep(text) == (wrapped + depth([value]) > MAX_DEPTH)


@pytest.mark.parametrize("levels", [MAX_DEPTH, 1000, 1100, 100_000])
@pytest.mark.parametrize("kind", Kind)
def test_a_body_that_nests_too_deep_is_the_client_s_fault(kind: Kind, levels: int) -> None:
    body = b'{"model":"m","prompt":"a","messages":[{}],"unknown":%b}' % nested(levels)
    with pytest.raises(ApiError) as caught:
        parse(kind, body, RULES)
    assert caught.value.status == 400
