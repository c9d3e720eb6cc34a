"""A stream is continued elsewhere only where nobody can tell; else the client learns which field stood in the way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from paceline_worker.router.parse import Kind, Rules, parse
from paceline_worker.router.resume.exactness import obstacle

RULES = Rules(frozenset({"m"}), frozenset(), 8192)
TEXT = [{"role": "user", "content": "hi"}]
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]


def of(kind: Kind = Kind.CHAT, **fields: Any) -> str | None:
    prompt = {"messages": TEXT} if kind is Kind.CHAT else {"prompt": "hi"}
    body = {"model": "m", "stream": True, **prompt, **fields}
    return obstacle(parse(kind, msgspec.json.encode(body), RULES))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "logit_bias": {"5": 1}},
        {"max_tokens": 5, "min_tokens": 2, "stop": ["x"], "stop_token_ids": [1], "ignore_eos": True},
        {"n": 1, "presence_penalty": 0, "logprobs": False, "tools": [], "response_format": {"type": "text"}},
        {"seed": 7, "temperature": 0},
        {"tool_choice": "auto"},
        {"seed": None, "logprobs": None, "guided_json": None},
        {"stream_options": {"include_usage": True}, "chat_template_kwargs": {"enable_thinking": False}},
    ],
)
def test_these_go_on(fields: dict[str, Any]) -> None:
    assert of(**fields) is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"n": 2}, "n"),
        ({"seed": 7}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"frequency_penalty": -0.5}, "frequency_penalty"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"structured_outputs": {"regex": "a*"}}, "structured_outputs"),
        ({"thinking_token_budget": 5}, "thinking_token_budget"),
        ({"something_new": 1}, "something_new"),
        ({"messages": IMAGE}, "messages"),
    ],
)
def test_these_do_not_and_say_why(fields: dict[str, Any], named: str) -> None:
    why = of(**fields)
    assert why is not None
    assert named in why


def test_several_prompts_in_one_stream_do_not() -> None:
    assert of(Kind.COMPLETION, prompt=["a", "b"]) is not None


@pytest.mark.parametrize("number", ["1" * 400, "[" * 90 + "1" * 400 + "]" * 90])
def test_a_number_that_only_an_engine_can_read_is_something_that_is_set(number: str) -> None:
    body = b'{"model": "m", "stream": true, "prompt": "hi", "tools": %b}' % number.encode()
    assert obstacle(parse(Kind.COMPLETION, body, RULES)) == "it sets tools"
