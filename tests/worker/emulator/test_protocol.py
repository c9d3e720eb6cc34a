"""What requests are accepted, and which field a refusal names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paceline_worker.emulator.errors import ApiError
from paceline_worker.emulator.protocol import (
    Chat,
    Completion,
    Plan,
    check_model,
    plan_chat,
    plan_completion,
    read,
    token_prompts,
)
from paceline_worker.emulator.tokens import encode

LIMIT = 100


def completion(**fields: Any) -> Plan:
    body = read(Completion, json.dumps({"prompt": "hi"} | fields).encode())
    return plan_completion(body, "m", None, LIMIT)


def chat(**fields: Any) -> Plan:
    body = read(Chat, json.dumps({"messages": [{"role": "user", "content": "hi"}]} | fields).encode())
    return plan_chat(body, "m", None, LIMIT)


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [
        ("hi", [[104, 105]]),
        (["hi", "a"], [[104, 105], [97]]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_prompts_come_as_texts_or_token_ids_one_or_several(prompt: Any, tokens: list[list[int]]) -> None:
    assert token_prompts(prompt, "prompt") == tokens


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"prompt": None}, "prompt", "must be provided"),
        ({"prompt": ""}, "prompt", "must be provided"),
        ({"prompt": ["a", ""]}, "prompt", "non-empty"),
        ({"prompt": ["a", [1]]}, "prompt", "all"),
        ({"prompt": [1, "a"]}, "prompt", "integers only"),
        ({"prompt": [1, 10**9]}, "prompt", "out of vocabulary"),
        ({"prompt": [-1]}, "prompt", "out of vocabulary"),
        ({"prompt": ["a"] * 1025}, "prompt", "1025"),
        ({"prompt": 3}, "prompt", "Expected"),
        ({"prompt": "x" * LIMIT}, "input_tokens", "maximum context length is 100 tokens"),
        ({"max_tokens": 0}, "max_tokens", "at least 1, got 0"),
        ({"max_tokens": LIMIT + 1}, "max_tokens", "101"),
        ({"max_tokens": "x"}, "max_tokens", "Expected `int"),
        ({"min_tokens": 20}, "min_tokens", "got 20"),
        ({"n": 0}, "n", "between 1 and 128, got 0"),
        ({"n": 129}, "n", "got 129"),
        ({"temperature": -0.1}, "temperature", "got -0.1"),
        ({"top_p": 0}, "top_p", "got 0"),
        ({"logprobs": 21}, "logprobs", "got 21"),
        ({"stop": [""]}, "stop", "none of them empty"),
        ({"stop": ["a"] * 65}, "stop", "at most 64"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream=True"),
        ({"echo": True}, "echo", "does not support `echo`"),
        ({"use_beam_search": True}, "use_beam_search", "does not support"),
        ({"prompt_logprobs": 1}, "prompt_logprobs", "does not support"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_a_refusal_names_the_field_and_what_is_allowed(fields: dict[str, Any], field: str, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        completion(**fields)
    assert refused.value.status == 400
    assert refused.value.param == field
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "at least one message"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"top_logprobs": 3}, "`logprobs` must be set"),
        ({"logprobs": True, "top_logprobs": 99}, "got 99"),
    ],
)
def test_a_bad_chat_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError) as refused:
        chat(**fields)
    assert message in str(refused.value)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"prompt": "a"} x', b"\xff", b'{"n":' + b"[" * 100_000])
def test_a_body_that_is_no_document_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        read(Completion, body)
    assert json.loads(refused.value.body())["error"]["code"] == 400


def test_fields_that_nobody_knows_are_ignored() -> None:
    assert completion(frobnicate=[1, 2]).max_tokens == 16


def test_numbers_as_strings_are_understood() -> None:
    assert completion(max_tokens="7").max_tokens == 7


def test_null_means_the_default() -> None:
    plan = completion(max_tokens=None, n=None, stop=None, seed=None, stream=None)
    assert (plan.max_tokens, plan.choices, plan.stops, plan.stream) == (16, 1, (), False)


def test_a_chat_goes_on_to_its_natural_end_and_takes_either_name_of_its_limit() -> None:
    assert chat().max_tokens is None
    assert chat(max_tokens=5).max_tokens == 5
    assert chat(max_tokens=5, max_completion_tokens=6).max_tokens == 6


def test_a_chat_accepts_tools() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    assert chat(tools=tools, tool_choice="auto").prompts == [
        encode("<im_start>user\nhi<im_end>\n<im_start>assistant\n")
    ]


def test_no_model_means_the_first_one_and_another_is_not_found() -> None:
    assert check_model(None, ("m", "n")) == "m"
    with pytest.raises(ApiError, match=r"`x` does not exist\. Valid aliases: m, n") as refused:
        check_model("x", ("m", "n"))
    assert refused.value.status == 404
