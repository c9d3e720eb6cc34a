"""Messages as chat templates see them."""

from __future__ import annotations

from typing import Any

import pytest

from paceline_worker.router.tokens.conversation import conversation, without_developers
from paceline_worker.router.tokens.errors import NoTokens, Outcome


def one(message: dict[str, Any], *, parts: bool = False) -> dict[str, Any]:
    (result,) = conversation([message], parts=parts)
    return result


def refusal(message: Any) -> Outcome:
    with pytest.raises(NoTokens) as caught:
        conversation([message], parts=False)
    return caught.value.outcome


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("x", "x"),
        (None, ""),
        ([], ""),
        (["a", "b"], "a\nb"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": None}, {"type": "output_text", "text": "b"}], "a\nb"),
        ([{"type": "thinking", "thinking": "t"}, {"type": "refusal", "refusal": "r"}], "t\nr"),
    ],
)
def test_content_becomes_one_text(content: Any, text: str) -> None:
    assert one({"role": "user", "content": content}) == {"role": "user", "content": text}


def test_content_becomes_parts_for_templates_that_want_them() -> None:
    given = [{"text": "a", "type": "input_text", "closed": True, "cache_control": 1}]
    assert one({"role": "user", "content": given}, parts=True)["content"] == [
        {"type": "text", "text": "a", "cache_control": 1}
    ]
    assert one({"role": "user", "content": "a"}, parts=True)["content"] == [{"type": "text", "text": "a"}]
    assert one({"role": "user"}, parts=True)["content"] == []


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"image_url": "data:,"},
        {"type": "text", "text": "x", "uuid": "1"},
        {"type": ["text"]},
    ],
)
def test_more_than_text_is_not_guessed_at(part: dict[str, Any]) -> None:
    assert refusal({"role": "user", "content": [part]}) is Outcome.UNSUPPORTED


@pytest.mark.parametrize(
    "message",
    [
        "x",
        {"content": "x"},
        {"role": 1},
        {"role": "user", "content": 5},
        {"role": "user", "content": [5]},
        {"role": "user", "content": [{"type": "text", "text": 5}]},
        {"role": "user", "content": [{"type": "thinking", "thinking": None}]},
        {"role": "assistant", "tool_calls": 5},
        {"role": "assistant", "tool_calls": [5]},
        {"role": "assistant", "tool_calls": [{"type": "custom", "id": "1", "custom": {}}]},
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "assistant", "tool_calls": [{"type": "function", "id": "1", "function": {"name": "f"}}]},
    ],
)  # fmt: skip
def test_messages_that_engines_refuse_are_refused(message: Any) -> None:
    assert refusal(message) is Outcome.REFUSED


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [('{"b": 1.50, "a": [1e3]}', {"b": 1.5, "a": [1000.0]}), ("", {}), ("[1]", {}), ("{broken", {}), ("5", {})],
)
def test_arguments_of_tool_calls_become_objects(arguments: str, parsed: dict[str, Any]) -> None:
    call = {"x": 1, "type": "function", "function": {"y": 2, "name": "f", "arguments": arguments}, "id": "1"}
    (shown,) = one({"role": "assistant", "content": None, "tool_calls": [call]})["tool_calls"]
    assert list(shown) == ["id", "function", "type", "x"]
    assert list(shown["function"].items()) == [("arguments", parsed), ("name", "f"), ("y", 2)]


def test_an_assistant_without_calls_has_no_list_of_them() -> None:
    assert "tool_calls" not in one({"role": "assistant", "content": "x", "tool_calls": []})


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_has_two_names_and_is_shown_under_both(name: str) -> None:
    shown = one({"role": "assistant", "content": "x", name: "why"})
    assert shown["reasoning"] == shown["reasoning_content"] == "why"
    assert "reasoning" not in one({"role": "user", "content": "x", name: "why"})


def test_results_of_tools_are_text_even_for_templates_that_want_parts() -> None:
    message = {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "a"}, "b"]}
    assert one(message, parts=True) == {"role": "tool", "content": "a\nb", "tool_call_id": "1"}


def test_names_are_kept_and_other_fields_are_not() -> None:
    assert one({"role": "user", "content": "x", "name": "ann", "task": 5, "extra": 1}) == {
        "role": "user",
        "content": "x",
        "name": "ann",
    }


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("x-anthropic-billing-header: 1\nrest", "rest"),
        ("x-anthropic-billing-header: 1", ""),
        ([{"type": "text", "text": "x-anthropic-billing-header: 1"}, {"type": "text", "text": "b"}], "b"),
        (" x-anthropic-billing-header", " x-anthropic-billing-header"),
    ],
)
def test_a_line_for_billing_is_cut_from_system_messages(content: Any, text: str) -> None:
    assert one({"role": "system", "content": content})["content"] == text
    assert one({"role": "user", "content": "x-anthropic-billing-header: 1"})["content"]


def test_developers_become_one_system_message_at_the_beginning() -> None:
    messages = conversation(
        [
            {"role": "user", "content": "q"},
            {"role": "developer", "content": "a", "tools": [1]},
            {"role": "system", "content": ""},
            {"role": "system", "content": "b"},
        ],
        parts=False,
    )
    assert messages[1]["tools"] == [1]
    assert without_developers(messages) == [{"role": "system", "content": "a\n\nb"}, {"role": "user", "content": "q"}]


def test_a_developer_who_is_first_only_changes_its_name() -> None:
    messages = conversation([{"role": "developer", "content": "a", "name": "n"}], parts=True)
    assert without_developers(messages) == [{"role": "system", "content": [{"type": "text", "text": "a"}], "name": "n"}]
