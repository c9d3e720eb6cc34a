"""Chunks and documents byte for byte: the quick way to write a chunk gives what the thorough one gives."""

from __future__ import annotations

import json
from typing import Any

import pytest

from paceline_worker.emulator.answers import Heading, Stream, Whole
from paceline_worker.emulator.generation import Generation
from paceline_worker.emulator.protocol import StreamOptions
from paceline_worker.http.message import Request, Response
from tests.worker.emulator.building import plan, speak


class Client:
    """The client's side of a response."""

    writable = True
    keeps_alive = True

    def __init__(self) -> None:
        self.received = b""

    def put(self, data: bytes) -> None:
        self.received += data

    async def drained(self) -> None: ...


def heading(*, chat: bool = False, details: bool = False) -> Heading:
    return Heading("id-1", 7, "m", chat, "fp", details)


async def streamed(*, chat: bool = False, n: int = 1, plainly: bool = True, **fields: Any) -> list[bytes]:
    """Events of a stream. ``plainly=False`` builds every chunk the thorough way."""
    made = plan("hello", n=n, stream=True, ignore_eos=True, **fields)
    client = Client()
    request = Request("POST", "/", "", [], peer="x", http11=False)
    answer = Stream(heading(chat=chat), made, Response(client, request))
    answer._plain = answer._plain and plainly
    answer.start()
    answer.generations = [
        Generation(made, made.prompts[0], i, sink=answer, output_limit=5, block_size=4, seed=i) for i in range(n)
    ]
    for each in answer.generations:
        speak(each)
    assert answer.done.is_set()
    body = client.received.partition(b"\r\n\r\n")[2]
    assert body.endswith(b"data: [DONE]\n\n")
    return body.split(b"\n\n")[:-2]


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("token_ids", [False, True])
async def test_the_quick_way_to_write_a_chunk_gives_the_same_bytes(chat: bool, token_ids: bool) -> None:
    quick = await streamed(chat=chat, n=2, return_token_ids=token_ids)
    assert quick == await streamed(chat=chat, n=2, return_token_ids=token_ids, plainly=False)


async def test_a_chunk_holds_the_fields_that_vllm_sets_in_its_order() -> None:
    first, second, *_, last = await streamed()
    assert list(json.loads(first[6:])) == ["id", "object", "created", "model", "choices"]
    choice = json.loads(second[6:])["choices"][0]
    assert list(choice) == [
        "index", "text", "logprobs", "finish_reason", "stop_reason", "prompt_token_ids", "token_ids",
    ]  # fmt: skip
    assert json.loads(last[6:])["system_fingerprint"] == "fp"


async def test_a_chat_chunk_holds_the_fields_that_vllm_sets_in_its_order() -> None:
    role, second, *_, last = (json.loads(event[6:]) for event in await streamed(chat=True))
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert list(role)[-2:] == ["prompt_token_ids", "prompt_text"]
    assert list(second["choices"][0]) == ["index", "delta", "logprobs", "finish_reason", "token_ids"]
    assert list(last["choices"][0]) == ["index", "delta", "logprobs", "finish_reason", "stop_reason", "token_ids"]


async def test_usage_of_several_choices_counts_the_prompt_once() -> None:
    last = (await streamed(n=3, stream_options=StreamOptions()))[-1]
    assert json.loads(last[6:])["usage"] == {"prompt_tokens": 5, "total_tokens": 20, "completion_tokens": 15}


async def test_logprobs_of_a_stream_go_on_where_the_text_is() -> None:
    chunks = [json.loads(event[6:])["choices"][0] for event in await streamed(logprobs=1)]
    assert [chunk["logprobs"]["text_offset"] for chunk in chunks] == [[0], [1], [2], [3], [4]]
    assert [chunk["logprobs"]["tokens"][0] for chunk in chunks] == [chunk["text"] for chunk in chunks]


def whole(*, chat: bool, **fields: Any) -> dict[str, Any]:
    made = plan("hello", ignore_eos=True, **fields)
    answer = Whole(heading(chat=chat, details=True), made)
    answer.generations = [Generation(made, made.prompts[0], 0, sink=answer, output_limit=3, block_size=4, seed=0)]
    speak(answer.generations[0])
    document: dict[str, Any] = json.loads(answer.body({"remote_port": 1}))
    return document


async def test_a_whole_answer_holds_all_fields() -> None:
    answer = whole(chat=False, return_token_ids=True)
    assert list(answer) == [
        "id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage",
        "kv_transfer_params", "ec_transfer_params", "metrics",
    ]  # fmt: skip
    assert answer["kv_transfer_params"] == {"remote_port": 1}
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert answer["choices"][0]["prompt_token_ids"] == list(b"hello")


async def test_a_whole_chat_has_a_message_and_its_logprobs() -> None:
    answer = whole(chat=True, logprobs=2)
    choice = answer["choices"][0]
    assert choice["message"]["role"] == "assistant"
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    assert all(
        len(entry["top_logprobs"]) == 2 and entry["top_logprobs"][0]["token"] == entry["token"] for entry in entries
    )
