"""Reading the prompt out of a request."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import pytest

from paceline_worker.router.parse import Fields, Kind
from paceline_worker.router.tokens.errors import NoTokens, Outcome
from paceline_worker.router.tokens.prompt import ChatPrompt, TextPrompt, is_token_ids, read_prompt, tool_for_template


def fields(**values: Any) -> Fields:
    return msgspec.json.decode(msgspec.json.encode(values), type=dict[str, msgspec.Raw])


def refusal(kind: Kind, **values: Any) -> Outcome:
    with pytest.raises(NoTokens) as caught:
        read_prompt(kind, fields(**values))
    return caught.value.outcome


def chat(**values: Any) -> ChatPrompt:
    prompt = read_prompt(Kind.CHAT, fields(messages=[{"role": "user", "content": "x"}], **values))
    assert isinstance(prompt, ChatPrompt)
    return prompt


def test_a_text_gets_the_tokenizers_special_tokens_unless_the_client_says_no() -> None:
    assert read_prompt(Kind.COMPLETION, fields(prompt="x")) == TextPrompt("x", special_tokens=True)
    assert read_prompt(Kind.COMPLETION, fields(prompt=["x"], add_special_tokens=False)) == TextPrompt(
        "x", special_tokens=False
    )


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2, 3]]])
def test_token_ids_are_taken_as_they_are(prompt: Any) -> None:
    assert read_prompt(Kind.COMPLETION, fields(prompt=prompt)) == array("I", [1, 2, 3])


def test_token_ids_are_told_from_the_first_bytes() -> None:
    assert is_token_ids(Kind.COMPLETION, {"prompt": msgspec.Raw(b"[ 17, 4]")})
    assert not is_token_ids(Kind.COMPLETION, {"prompt": msgspec.Raw(b'["17"]')})
    assert not is_token_ids(Kind.COMPLETION, {"prompt": msgspec.Raw(b"[]")})
    assert not is_token_ids(Kind.CHAT, {"prompt": msgspec.Raw(b"[1]")})
    assert not is_token_ids(Kind.COMPLETION, {})


@pytest.mark.parametrize("prompt", [None, "", [], [""], [[]], [-1], [2**32], [1, "x"], [["x"]], [None], 5])
def test_what_is_no_prompt_is_refused(prompt: Any) -> None:
    assert refusal(Kind.COMPLETION, prompt=prompt) is Outcome.REFUSED


@pytest.mark.parametrize("prompt", [["a", "b"], [[1], [2]]])
def test_several_prompts_have_no_one_prefix(prompt: Any) -> None:
    assert refusal(Kind.COMPLETION, prompt=prompt) is Outcome.UNSUPPORTED


@pytest.mark.parametrize("field", ["truncate_prompt_tokens", "prompt_embeds", "suffix", "chat_template"])
def test_fields_that_change_the_prompt_behind_the_routers_back_are_not_guessed_at(field: str) -> None:
    assert refusal(Kind.COMPLETION, prompt="x", **{field: "1"}) is Outcome.UNSUPPORTED


def test_requests_without_a_prompt_to_continue_have_no_tokens() -> None:
    assert refusal(Kind.OTHER, input="x") is Outcome.UNSUPPORTED


def test_a_chat_opens_an_answer_and_adds_no_special_tokens_by_default() -> None:
    prompt = chat()
    assert prompt.add_generation_prompt
    assert not prompt.continue_final_message
    assert not prompt.special_tokens
    assert prompt.tools is None


def test_going_on_with_the_last_message_excludes_opening_an_answer() -> None:
    messages = [{"role": "assistant", "content": "x"}]
    assert refusal(Kind.CHAT, messages=messages, continue_final_message=True) is Outcome.REFUSED
    assert chat(continue_final_message=True, add_generation_prompt=False).continue_final_message


def test_variables_of_the_template_come_from_the_client_but_for_what_counts_as_unset() -> None:
    prompt = chat(chat_template_kwargs={"a": 1, "b": None, "c": "auto", "add_generation_prompt": False})
    assert prompt.variables == {"a": 1}
    assert prompt.add_generation_prompt


@pytest.mark.parametrize(("effort", "thinks"), [("none", False), ("low", True)])
def test_an_effort_of_reasoning_switches_thinking(effort: str, thinks: bool) -> None:
    assert chat(reasoning_effort=effort).variables == {"reasoning_effort": effort, "enable_thinking": thinks}


def test_what_the_client_says_of_thinking_wins_over_its_effort() -> None:
    prompt = chat(reasoning_effort="none", chat_template_kwargs={"enable_thinking": True})
    assert prompt.variables["enable_thinking"] is True


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "tools", "messages"])
def test_variables_that_reach_past_the_template_are_not_guessed_at(name: str) -> None:
    messages = [{"role": "user", "content": "x"}]
    assert refusal(Kind.CHAT, messages=messages, chat_template_kwargs={name: 1}) is Outcome.UNSUPPORTED


@pytest.mark.parametrize(
    "values",
    [
        {"messages": []},
        {"messages": "x"},
        {},
        {"messages": [1], "tools": []},
        {"messages": [1], "tools": [{}]},
        {"messages": [1], "tools": [{"function": {"name": "f"}, "type": "custom"}]},
        {"messages": [1], "documents": ["x"]},
        {"messages": [1], "add_generation_prompt": "yes"},
    ],
)
def test_chats_that_engines_refuse_are_refused(values: dict[str, Any]) -> None:
    assert refusal(Kind.CHAT, **values) is Outcome.REFUSED


def test_json_that_nests_too_deep_is_refused() -> None:
    deep = msgspec.Raw(b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(NoTokens):
        read_prompt(Kind.CHAT, {"messages": deep})


def test_templates_see_tools_in_the_engines_order_without_what_clients_add() -> None:
    tool = {"extra": 1, "function": {"parameters": {"z": 1}, "extra": 2, "name": "f"}, "type": "function"}
    assert list(tool_for_template(tool)) == ["type", "function"]
    shown = tool_for_template(tool)["function"]
    assert list(shown.items()) == [("name", "f"), ("description", None), ("parameters", {"z": 1})]


def test_optional_fields_of_tools_are_shown_only_when_given() -> None:
    tool = {"function": {"name": "f", "strict": True}, "defer_loading": True}
    assert tool_for_template(tool) == {
        "type": "function",
        "function": {"name": "f", "description": None, "parameters": None, "strict": True, "defer_loading": True},
        "defer_loading": True,
    }
