"""What is wrong with a body is said with field, value and what is allowed; what is right passes through untouched."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_worker.router.errors import ApiError
from paceline_worker.router.parse import Kind, Rules, parse

RULES = Rules(frozenset({"m", "adapter"}), frozenset({"adapter"}), max_model_len=1000)


def completion(**body: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "hi", **body}).encode()


def chat(**body: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **body}).encode()


@pytest.mark.parametrize(
    ("kind", "body", "status", "param", "said"),
    [
        (Kind.COMPLETION, b"", 400, None, "JSON object"),
        (Kind.COMPLETION, b"{", 400, None, "JSON object"),
        (Kind.COMPLETION, b"[1]", 400, None, "JSON object"),
        (Kind.COMPLETION, b'{"model":"\xff"}', 400, None, "must be a JSON object"),
        (Kind.COMPLETION, completion(model="gpt-5"), 404, "model", "gpt-5 does not exist here; served are: adapter, m"),
        (Kind.COMPLETION, completion(model="x" * 500), 404, "model", "x..."),
        (Kind.COMPLETION, completion(model=5), 400, "model", "must be a string, not 5"),
        (Kind.COMPLETION, b'{"model":"m"}', 400, "prompt", "is required"),
        (Kind.COMPLETION, completion(prompt=None), 400, "prompt", "is required"),
        (Kind.COMPLETION, completion(prompt=[]), 400, "prompt", "must be a string"),
        (Kind.COMPLETION, completion(prompt={}), 400, "prompt", "must be a string"),
        (Kind.COMPLETION, completion(prompt=[-1]), 400, "prompt", "must be a string"),
        (Kind.COMPLETION, completion(max_tokens=0), 400, "max_tokens", "at least 1, not 0"),
        (Kind.COMPLETION, completion(max_tokens=-5), 400, "max_tokens", "at least 1, not -5"),
        (Kind.COMPLETION, completion(max_tokens="5"), 400, "max_tokens", 'not "5"'),
        (Kind.COMPLETION, completion(max_tokens=1.5), 400, "max_tokens", "not 1.5"),
        (Kind.COMPLETION, completion(max_tokens=True), 400, "max_tokens", "not true"),
        (Kind.COMPLETION, completion(max_tokens=1001), 400, "max_tokens", "at most 1000"),
        (Kind.CHAT, chat(max_completion_tokens=1001), 400, "max_completion_tokens", "at most 1000"),
        (Kind.COMPLETION, completion(n=0), 400, "n", "at least 1, not 0"),
        (Kind.COMPLETION, completion(stream="yes"), 400, "stream", "true or false"),
        (Kind.COMPLETION, completion(kv_transfer_params={}), 400, "kv_transfer_params", "leave it out"),
        (Kind.CHAT, b'{"model":"m"}', 400, "messages", "is required"),
        (Kind.CHAT, chat(messages=[]), 400, "messages", "at least one"),
        (Kind.CHAT, b'{"model":"m","messages":[ ]}', 400, "messages", "at least one"),
        (Kind.CHAT, chat(messages="hi"), 400, "messages", "must be a list"),
        (Kind.OTHER, b'{"model":"x"}', 404, "model", "does not exist"),
        (Kind.OTHER, completion(kv_transfer_params={"remote_host": "a"}), 400, "kv_transfer_params", "leave it out"),
        (Kind.CHAT, b'{"model":"m","messages":[{"role":"\xed\xa0\x80"}]}', 400, None, "must be a JSON object"),
    ],
)
def test_a_wrong_body_is_refused(kind: Kind, body: bytes, status: int, param: str | None, said: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(kind, body, RULES)
    assert (caught.value.status, caught.value.param) == (status, param)
    assert said in str(caught.value)
    assert msgspec.json.decode(caught.value.body())["error"]["param"] == param


def test_kv_transfer_params_can_not_be_smuggled_in_by_an_escaped_name_or_a_second_key() -> None:
    escaped = b'{"model":"m","prompt":"hi","kv_\\u0074ransfer_params":{"do_remote_prefill":true}}'
    with pytest.raises(ApiError):
        parse(Kind.COMPLETION, escaped, RULES)
    twice = b'{"model":"m","prompt":"hi","kv_transfer_params":{"do_remote_prefill":true},"kv_transfer_params":null}'
    assert b"do_remote_prefill" not in parse(Kind.COMPLETION, twice, RULES).body()


@pytest.mark.parametrize(
    ("prompt", "tokens", "transferable"),
    [
        ("x" * 400, 100, True),
        ("", 1, True),
        ([1, 2, 3], 3, True),
        ([[1, 2], [3, 4]], 4, False),
        (["x" * 400], 101, False),
    ],
)
def test_prompt_tokens_are_exact_for_ids_and_a_fair_guess_for_text(
    prompt: object, tokens: int, transferable: bool
) -> None:
    view = parse(Kind.COMPLETION, completion(prompt=prompt), RULES).view
    assert (view.prompt_tokens, view.transferable) == (tokens, transferable)


def test_nulls_are_as_good_as_absent() -> None:
    nothing = dict.fromkeys(("max_tokens", "n", "stream", "kv_transfer_params", "echo", "model"))
    call = parse(Kind.COMPLETION, completion(**nothing), RULES)
    assert not call.stream
    assert call.view.transferable


def test_the_smaller_of_the_token_limits_is_what_is_expected() -> None:
    assert parse(Kind.CHAT, chat(max_tokens=7, max_completion_tokens=9), RULES).view.output_tokens == 7
    assert parse(Kind.CHAT, chat(max_tokens=900), RULES).view.output_tokens == 256


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=10,
)
UNKNOWN = st.dictionaries(st.text(min_size=1).map(lambda name: f"x_{name}"), JSON, max_size=5)


@given(UNKNOWN)
def test_fields_that_the_router_does_not_know_pass_through(unknown: dict[str, Any]) -> None:
    body = {"model": "m", "prompt": "hi", **unknown}
    call = parse(Kind.COMPLETION, json.dumps(body).encode(), RULES)
    assert json.loads(call.body()) == body
    kv = msgspec.Raw(b'{"remote_engine_id":"e"}')
    assert json.loads(call.body(kv)) == {**body, "kv_transfer_params": {"remote_engine_id": "e"}}
    prefill = json.loads(call.prefill_body())
    assert {name: prefill[name] for name in body} == body
    assert (prefill["max_tokens"], prefill["stream"]) == (1, False)
    assert prefill["kv_transfer_params"]["do_remote_decode"] is True


def test_what_contradicts_a_prefill_is_left_out_of_it() -> None:
    options = {
        "stream": True, "stream_options": {"include_usage": True}, "min_tokens": 5, "max_completion_tokens": 9,
        "logprobs": True, "top_logprobs": 2, "n": 1, "return_token_ids": True, "temperature": 0.3, "tools": [],
    }  # fmt: skip
    prefill = json.loads(parse(Kind.CHAT, chat(**options), RULES).prefill_body())
    assert set(prefill) == {
        "model", "messages", "temperature", "tools", "max_tokens", "stream", "kv_transfer_params",
    }  # fmt: skip


def refusal(kind: Kind, body: bytes) -> int | None:
    try:
        parse(kind, body, RULES)
    except ApiError as error:
        return error.status
    return None


@given(st.sampled_from(Kind), st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_make_it_fail_in_another_way(kind: Kind, body: bytes) -> None:
    assert refusal(kind, body) in (None, 400, 404)
