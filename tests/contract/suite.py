"""What Paceline relies on in an engine, as tests that run against the emulator and against real vLLM alike.

A test module subclasses these and provides a fixture ``engines`` that gives :class:`~tests.contract.engines.Engines`.
"""

from __future__ import annotations

import asyncio
import json
from uuid import uuid4

import pytest

from tests.contract.engines import (
    FAILED,
    REMOTE_DECODE,
    TRANSFERRED,
    Batch,
    Engine,
    Engines,
    Json,
    client,
    complete,
    grown,
    idle,
    metric,
    metrics,
    parse_batch,
    refused,
    replay,
    stream,
    subscription,
    tokens_of,
)
from tests.processes import free_ports

TEXT = "The quick brown fox jumps over the lazy dog, and then it does so again. "

REQUIRED_METRICS = {
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:cache_config_info": "gauge",
    "vllm:prompt_tokens": "counter",
    "vllm:generation_tokens": "counter",
    "vllm:prefix_cache_queries": "counter",
    "vllm:prefix_cache_hits": "counter",
    "vllm:num_preemptions": "counter",
    "vllm:request_success": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:request_queue_time_seconds": "histogram",
    "vllm:request_prefill_time_seconds": "histogram",
    "vllm:request_decode_time_seconds": "histogram",
    "vllm:request_prompt_tokens": "histogram",
    "vllm:request_generation_tokens": "histogram",
    "vllm:iteration_tokens_total": "histogram",
}


def greedy(engines: Engines, prompt: str | list[int], tokens: int = 16, **more: object) -> Json:
    """A greedy completion of exactly ``tokens`` tokens that reports its token ids."""
    body: Json = {
        "model": engines.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True,
        "return_token_ids": True,
    }  # fmt: skip
    return body | more


def fresh(blocks: float, engines: Engines) -> str:
    """A text of at least that many blocks that no engine has seen before."""
    start = f"{uuid4().hex} "
    return start + TEXT * (1 + int(blocks * engines.block_size * 4 / len(TEXT)))


class CompletionsContract:
    """``/v1/completions`` without streaming."""

    async def test_a_completion_has_the_shape_that_clients_expect(self, engines: Engines) -> None:
        answer = await complete(engines.a, greedy(engines, TEXT))
        assert answer["object"] == "text_completion"
        assert answer["id"].startswith("cmpl-")
        assert answer["model"] == engines.model
        assert isinstance(answer["created"], int)
        (choice,) = answer["choices"]
        assert choice["index"] == 0
        assert choice["finish_reason"] == "length"
        assert choice["text"]
        assert len(choice["token_ids"]) == 16
        prompt_tokens = await tokens_of(engines.a, TEXT, engines.model)
        assert choice["prompt_token_ids"] == prompt_tokens
        usage = answer["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(prompt_tokens), 16)
        assert usage["total_tokens"] == len(prompt_tokens) + 16

    async def test_greedy_decoding_repeats_itself_on_either_engine(self, engines: Engines) -> None:
        answers = [await complete(engine, greedy(engines, TEXT)) for engine in (engines.a, engines.a, engines.b)]
        assert len({answer["choices"][0]["text"] for answer in answers}) == 1

    async def test_token_ids_as_prompt_give_what_the_text_gives(self, engines: Engines) -> None:
        tokens = await tokens_of(engines.a, TEXT, engines.model)
        by_text = await complete(engines.a, greedy(engines, TEXT))
        by_ids = await complete(engines.a, greedy(engines, tokens))
        assert by_ids["choices"][0]["token_ids"] == by_text["choices"][0]["token_ids"]

    async def test_continuing_from_the_tokens_so_far_gives_the_rest(self, engines: Engines) -> None:
        whole = (await complete(engines.a, greedy(engines, TEXT, 24)))["choices"][0]
        resumed = await complete(engines.b, greedy(engines, whole["prompt_token_ids"] + whole["token_ids"][:9], 24 - 9))
        assert resumed["choices"][0]["token_ids"] == whole["token_ids"][9:]

    async def test_n_gives_that_many_choices(self, engines: Engines) -> None:
        answer = await complete(engines.a, greedy(engines, TEXT, 4, n=2, temperature=1, seed=1))
        assert [choice["index"] for choice in answer["choices"]] == [0, 1]
        assert answer["usage"]["completion_tokens"] == 8

    async def test_several_prompts_give_a_choice_each(self, engines: Engines) -> None:
        body = greedy(engines, TEXT, 4) | {"prompt": [TEXT, "Another prompt."]}
        answer = await complete(engines.a, body)
        assert [choice["index"] for choice in answer["choices"]] == [0, 1]

    async def test_logprobs_come_one_a_token(self, engines: Engines) -> None:
        answer = await complete(engines.a, greedy(engines, TEXT, 5, logprobs=2))
        logprobs = answer["choices"][0]["logprobs"]
        assert len(logprobs["tokens"]) == len(logprobs["token_logprobs"]) == len(logprobs["text_offset"]) == 5
        assert all(value <= 0 for value in logprobs["token_logprobs"])
        assert all(len(top) >= 2 for top in logprobs["top_logprobs"])

    async def test_a_stop_string_ends_the_text_before_it(self, engines: Engines) -> None:
        whole = (await complete(engines.a, greedy(engines, TEXT, 32)))["choices"][0]["text"]
        stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
        cut = (await complete(engines.a, greedy(engines, TEXT, 32, stop=[stop])))["choices"][0]
        assert cut["finish_reason"] == "stop"
        assert cut["stop_reason"] == stop
        assert cut["text"] == whole[: whole.index(stop)]

    async def test_without_max_tokens_a_completion_has_sixteen_at_most(self, engines: Engines) -> None:
        answer = await complete(engines.a, {"model": engines.model, "prompt": TEXT, "ignore_eos": True})
        assert answer["usage"]["completion_tokens"] == 16


class StreamingContract:
    """Server-sent events."""

    async def test_a_stream_carries_the_text_of_the_whole_answer(self, engines: Engines) -> None:
        whole = (await complete(engines.a, greedy(engines, TEXT)))["choices"][0]
        events = await stream(engines.a, greedy(engines, TEXT))
        assert {event["object"] for event in events} == {"text_completion"}
        assert len({event["id"] for event in events}) == 1
        choices = [event["choices"][0] for event in events]
        assert "".join(choice["text"] for choice in choices) == whole["text"]
        assert [token for choice in choices for token in choice["token_ids"] or ()] == whole["token_ids"]
        assert choices[0]["prompt_token_ids"] == whole["prompt_token_ids"]
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]

    async def test_usage_comes_last_when_asked_for(self, engines: Engines) -> None:
        events = await stream(engines.a, greedy(engines, TEXT, 6, stream_options={"include_usage": True}))
        assert events[-1]["choices"] == []
        assert events[-1]["usage"]["completion_tokens"] == 6
        assert all(not event.get("usage") for event in events[:-1])

    async def test_usage_comes_with_every_event_when_asked_for(self, engines: Engines) -> None:
        options = {"include_usage": True, "continuous_usage_stats": True}
        events = await stream(engines.a, greedy(engines, TEXT, 6, stream_options=options))
        counts = [event["usage"]["completion_tokens"] for event in events]
        assert counts == sorted(counts)
        assert counts[-1] == 6

    async def test_a_client_that_goes_away_frees_the_engine(self, engines: Engines) -> None:
        room = engines.max_model_len - 200
        before = await metric(engines.a, "vllm:generation_tokens_total")
        async with client(engines.a) as http:
            body = greedy(engines, TEXT, room, stream=True)
            async with http.stream("POST", "/v1/completions", json=body) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        break
        await idle(engines.a)
        assert await metric(engines.a, "vllm:generation_tokens_total") - before < room


class ChatContract:
    """``/v1/chat/completions``."""

    MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who are you?"})

    def body(self, engines: Engines, **more: object) -> Json:
        body: Json = {
            "model": engines.model, "messages": list(self.MESSAGES), "max_tokens": 12, "temperature": 0,
            "ignore_eos": True,
        }  # fmt: skip
        return body | more

    async def test_a_chat_has_the_shape_that_clients_expect(self, engines: Engines) -> None:
        answer = await complete(engines.a, self.body(engines), "/v1/chat/completions")
        assert answer["object"] == "chat.completion"
        assert answer["id"].startswith("chatcmpl-")
        (choice,) = answer["choices"]
        assert choice["message"]["role"] == "assistant"
        assert choice["message"]["content"]
        assert choice["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 12

    async def test_a_streamed_chat_carries_the_same_text(self, engines: Engines) -> None:
        whole = await complete(engines.a, self.body(engines), "/v1/chat/completions")
        events = await stream(engines.a, self.body(engines), "/v1/chat/completions")
        assert {event["object"] for event in events} == {"chat.completion.chunk"}
        deltas = [event["choices"][0]["delta"] for event in events]
        assert deltas[0]["role"] == "assistant"
        assert "".join(delta.get("content") or "" for delta in deltas) == whole["choices"][0]["message"]["content"]
        assert events[-1]["choices"][0]["finish_reason"] == "length"

    async def test_the_prompt_of_a_chat_is_its_template(self, engines: Engines) -> None:
        template = await complete(engines.a, {"model": engines.model, "messages": list(self.MESSAGES)}, "/tokenize")
        answer = await complete(engines.a, self.body(engines), "/v1/chat/completions")
        assert answer["usage"]["prompt_tokens"] == template["count"]

    async def test_max_completion_tokens_is_max_tokens(self, engines: Engines) -> None:
        body = self.body(engines, max_completion_tokens=5)
        del body["max_tokens"]
        answer = await complete(engines.a, body, "/v1/chat/completions")
        assert answer["usage"]["completion_tokens"] == 5


class ErrorsContract:
    """What an engine refuses, and how."""

    @pytest.mark.parametrize(
        ("change", "status"),
        [
            ({"model": "no-such-model"}, 404),
            ({"max_tokens": -1}, 400),
            ({"max_tokens": "many"}, 400),
            ({"temperature": -3}, 400),
            ({"n": 0}, 400),
            ({"prompt": []}, 400),
        ],
        ids=lambda value: json.dumps(value) if isinstance(value, dict) else str(value),
    )
    async def test_a_bad_value_is_refused_with_an_error_object(
        self, engines: Engines, change: Json, status: int
    ) -> None:
        answer = await refused(engines.a, greedy(engines, TEXT) | change)
        assert answer.status_code == status, answer.text
        error = answer.json()["error"]
        assert error["message"]
        assert error["code"] == status
        assert isinstance(error["type"], str)

    async def test_a_prompt_over_the_model_length_is_refused(self, engines: Engines) -> None:
        answer = await refused(engines.a, greedy(engines, [65] * (engines.max_model_len + 1)))
        assert answer.status_code == 400
        assert str(engines.max_model_len) in answer.json()["error"]["message"]

    async def test_malformed_json_is_refused(self, engines: Engines) -> None:
        answer = await refused(engines.a, b'{"model": ')
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]

    async def test_an_unknown_path_is_not_found(self, engines: Engines) -> None:
        assert (await refused(engines.a, {}, "/v1/nothing")).status_code == 404


class ServiceContract:
    """What surrounds the completions."""

    async def test_it_is_healthy_and_has_a_version(self, engines: Engines) -> None:
        async with client(engines.a) as http:
            assert (await http.get("/health")).status_code == 200
            assert isinstance((await http.get("/version")).json()["version"], str)

    async def test_it_lists_its_model(self, engines: Engines) -> None:
        async with client(engines.a) as http:
            listing = (await http.get("/v1/models")).json()
        assert listing["object"] == "list"
        assert engines.model in [card["id"] for card in listing["data"]]
        assert listing["data"][0]["max_model_len"] == engines.max_model_len

    async def test_tokenising_and_back_is_the_text(self, engines: Engines) -> None:
        text = "Plain text, Ünïcödé, 漢字 and 🙂"
        body = {"model": engines.model, "prompt": text, "add_special_tokens": False}
        there = await complete(engines.a, body, "/tokenize")
        assert there["count"] == len(there["tokens"])
        assert there["max_model_len"] == engines.max_model_len
        back = await complete(engines.a, {"model": engines.model, "tokens": there["tokens"]}, "/detokenize")
        assert back["prompt"] == text

    async def test_the_metrics_that_matter_are_there_with_their_types(self, engines: Engines) -> None:
        await complete(engines.a, greedy(engines, TEXT))
        families = await metrics(engines.a)
        found = {name: families[name][0] for name in REQUIRED_METRICS if name in families}
        assert found == REQUIRED_METRICS
        labels = families["vllm:num_requests_running"][1][0][1]
        assert labels["model_name"] == engines.model

    async def test_counters_count_what_was_done(self, engines: Engines) -> None:
        prompt = fresh(2, engines)
        names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total", "vllm:request_success_total")
        before = [await metric(engines.a, name) for name in names]
        answer = await complete(engines.a, greedy(engines, prompt, 7))
        await idle(engines.a)
        after = [await metric(engines.a, name) for name in names]
        grown = [now - then for now, then in zip(after, before, strict=True)]
        assert grown == [answer["usage"]["prompt_tokens"], 7, 1]

    async def test_a_prompt_seen_before_hits_the_cache(self, engines: Engines) -> None:
        prompt = fresh(6, engines)
        await complete(engines.a, greedy(engines, prompt, 1))
        before = await metric(engines.a, "vllm:prefix_cache_hits_total")
        answer = await complete(engines.a, greedy(engines, prompt, 1))
        hits = await metric(engines.a, "vllm:prefix_cache_hits_total") - before
        # All whole blocks but the one that holds the last token, which must be computed to have something to sample.
        assert hits == (answer["usage"]["prompt_tokens"] - 1) // engines.block_size * engines.block_size

    async def test_a_cache_salt_keeps_tenants_apart(self, engines: Engines) -> None:
        prompt = fresh(6, engines)
        await complete(engines.a, greedy(engines, prompt, 1, cache_salt="tenant-one"))
        before = await metric(engines.a, "vllm:prefix_cache_hits_total")
        await complete(engines.a, greedy(engines, prompt, 1, cache_salt="tenant-two"))
        assert await metric(engines.a, "vllm:prefix_cache_hits_total") == before


class EventsContract:
    """Cache events on the wire."""

    @staticmethod
    async def stored(engines: Engines, prompt: str, wanted: int) -> list[Batch]:
        """Batches that hold at least ``wanted`` stored blocks of ``prompt``."""
        batches: list[Batch] = []
        blocks = 0
        async with subscription(engines.a) as socket, asyncio.timeout(30):
            while not await socket.poll(200):  # the subscription takes a moment: send until something comes
                await complete(engines.a, greedy(engines, fresh(1, engines), 1))
            await complete(engines.a, greedy(engines, prompt, 1))
            head = (await tokens_of(engines.a, prompt, engines.model))[: engines.block_size]
            seen = False
            while blocks < wanted:
                batch = parse_batch(*await socket.recv_multipart())
                batches.append(batch)
                for event in batch.events:
                    if event["type"] == "BlockStored":
                        seen = seen or event["token_ids"][: engines.block_size] == head
                        blocks += len(event["block_hashes"]) if seen else 0
        return batches

    async def test_stored_blocks_carry_their_tokens_and_chain(self, engines: Engines) -> None:
        prompt = fresh(4, engines)
        tokens = await tokens_of(engines.a, prompt, engines.model)
        whole = len(tokens) // engines.block_size
        batches = await self.stored(engines, prompt, whole)
        assert [batch.sequence for batch in batches] == list(
            range(batches[0].sequence, batches[0].sequence + len(batches))
        )
        events = [event for batch in batches for event in batch.events if event["type"] == "BlockStored"]
        first = next(
            i for i, e in enumerate(events) if e["token_ids"][: engines.block_size] == tokens[: engines.block_size]
        )
        parent = None
        reported: list[int] = []
        for event in events[first:]:
            assert event["block_size"] == engines.block_size
            assert event["medium"] == "GPU"
            assert len(event["token_ids"]) == len(event["block_hashes"]) * engines.block_size
            assert event["parent_block_hash"] == parent
            parent = event["block_hashes"][-1]
            reported += event["token_ids"]
        assert reported[: whole * engines.block_size] == tokens[: whole * engines.block_size]

    async def test_what_was_missed_can_be_replayed(self, engines: Engines) -> None:
        batches = await self.stored(engines, fresh(2, engines), 2)
        last = batches[-1]
        replayed = await replay(engines.a, last.sequence)
        assert replayed[0].sequence == last.sequence
        assert replayed[0].events == last.events
        assert await replay(engines.a, last.sequence + 10**6) == []


class DisaggregationContract:
    """Prefill on one engine, decode on the other."""

    @staticmethod
    async def disaggregated(prefill: Engine, decode: Engine, body: Json, path: str = "/v1/completions") -> Json:
        """One request through both engines, as the router does it."""
        first = await complete(
            prefill, body | {"max_tokens": 1, "stream": False, "kv_transfer_params": REMOTE_DECODE}, path
        )
        params = first["kv_transfer_params"]
        assert params["do_remote_prefill"] is True
        assert params["remote_host"]
        return await complete(decode, body | {"kv_transfer_params": params}, path)

    @pytest.mark.parametrize("reverse", [False, True], ids=["a-to-b", "b-to-a"])
    async def test_it_gives_the_tokens_of_one_engine(self, engines: Engines, reverse: bool) -> None:
        prefill, decode = (engines.b, engines.a) if reverse else (engines.a, engines.b)
        prompt = fresh(5, engines)
        transferred = await metric(decode, TRANSFERRED, source="external_kv_transfer")
        failed = await metric(decode, FAILED)
        apart = await self.disaggregated(prefill, decode, greedy(engines, prompt, 20))
        whole_blocks = (apart["usage"]["prompt_tokens"] - 1) // engines.block_size * engines.block_size
        growth = await grown(decode, TRANSFERRED, transferred, by=whole_blocks, source="external_kv_transfer")
        alone = await complete(decode, greedy(engines, prompt, 20, cache_salt=uuid4().hex))
        assert apart["choices"][0]["token_ids"] == alone["choices"][0]["token_ids"]
        assert growth >= whole_blocks, f"{await metric(decode, FAILED) - failed:g} failed transfers"

    async def test_a_prefill_engine_that_is_gone_costs_time_but_no_tokens(self, engines: Engines) -> None:
        prompt = fresh(3, engines)
        body = greedy(engines, prompt, 12)
        first = await complete(engines.a, body | {"max_tokens": 1, "kv_transfer_params": REMOTE_DECODE})
        gone = first["kv_transfer_params"] | {"remote_engine_id": str(uuid4()), "remote_port": free_ports(1)[0]}
        computed = await complete(engines.b, body | {"kv_transfer_params": gone})
        alone = await complete(engines.b, greedy(engines, prompt, 12, cache_salt=uuid4().hex))
        assert computed["choices"][0]["token_ids"] == alone["choices"][0]["token_ids"]
