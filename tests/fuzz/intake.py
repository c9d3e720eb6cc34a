"""What engines tell: cache events, metrics pages, streams of answers. A wrong one costs that engine, nobody else."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from types import SimpleNamespace
from typing import Any, Final, cast

import msgspec
import zmq

from paceline.clock import VirtualClock
from paceline.planner.pages import BadPage, EngineGauges, make_page
from paceline.planner.prometheus import Series, _decode, _Matrix, _Unusable, make_reading
from paceline.planner.scrape import read_lines
from paceline.policy.routing.engine_cache import EngineCache
from paceline.policy.routing.kv_events import BlockStored
from paceline.policy.routing.prefix_index import PrefixIndex
from paceline_worker.router.load import read_load
from paceline_worker.router.prefixes.subscription import Noted, Subscription
from paceline_worker.router.resume.transcript import Transcript
from tests.fuzz.inputs import json_bytes, mutated, odd, spoiled
from tests.fuzz.target import Found, Plain
from tests.planner.pages import FakeRouter, text_of

MAX_ENTRIES: Final = 200
_HASHES: Final = [bytes([number]) * 32 for number in range(6)]


def _stored(first: int, count: int, **more: Any) -> dict[str, Any]:
    return {
        "type": "BlockStored", "block_hashes": _HASHES[first : first + count],
        "parent_block_hash": _HASHES[first - 1] if first else None, "token_ids": list(range(2 * count)),
        "block_size": 2, "lora_id": None, "medium": "GPU", **more,
    }  # fmt: skip


_EVENTS: Final = (
    _stored(0, 3), _stored(3, 2), _stored(0, 1, medium="CPU"), _stored(0, 2, extra_keys=[["salt"], None]),
    _stored(0, 2, lora_name="a", group_idx=1, kv_cache_spec_kind="sliding_window"), _stored(1, 2, token_ids=[]),
    {"type": "BlockRemoved", "block_hashes": _HASHES[:2], "medium": "GPU"},
    {"type": "BlockRemoved", "block_hashes": [7, -1, 2**63], "medium": "STORAGE", "locality": "REMOTE"},
    {"type": "AllBlocksCleared"},
)  # fmt: skip


class CacheEvents(Plain):
    """Frames of several messages, live and replayed, into the subscription of one engine of two."""

    name = "cache-events"
    share = 14

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._index = PrefixIndex(max_entries=MAX_ENTRIES)
        self._bystander = self._join()
        for _ in self._bystander.apply([BlockStored(_HASHES[:3], None, [0, 1, 2, 3, 4, 5], 2)]):
            pass
        self._known = len(self._bystander)

    def _join(self) -> EngineCache:
        made: list[EngineCache] = []

        def make(bit: int) -> EngineCache:
            made.append(EngineCache(self._index, bit, model="m", sent_capacity=10))
            return made[0]

        self._number = self._index.join(make)
        return made[0]

    def make(self, rng: random.Random) -> bytes:
        messages = []
        for number in range(rng.randint(1, 5)):
            events: Any = rng.choices(_EVENTS, k=rng.randint(0, 4))
            if rng.random() < 0.6:
                events = _spoiled_events(rng, events)
            batch: Any = [float(number), events, 0]
            if rng.random() < 0.1:
                batch = rng.choice((odd(rng), batch[:2], [*batch, 1], [odd(rng), events]))
            payload = _packed(batch)
            if rng.random() < 0.2:
                payload = mutated(rng, payload)
            sequence = rng.choice((number, number, number, number + 1, 0, 2**63, -1)) % 2**64
            frames = [b"kv@e@m", sequence.to_bytes(8, "big"), payload]
            if rng.random() < 0.1:
                frames = rng.choice((frames[:2], [*frames, b""], [b"kv@other@m", *frames[1:]], [b"", b"x", b""]))
            messages.append((rng.random() < 0.3, frames))
        return msgspec.msgpack.encode(messages)

    def check(self, data: bytes) -> None:
        self._loop.run_until_complete(self._feed(msgspec.msgpack.decode(data, type=list[tuple[bool, list[bytes]]])))

    async def _feed(self, messages: list[tuple[bool, list[bytes]]]) -> None:
        cache = self._join()
        sink = SimpleNamespace(apply=cache.apply, reset=lambda: cache.give_up(MAX_ENTRIES))
        subscription = Subscription(
            cast("zmq.Context[Any]", None), live="", replay=None, engine="e", sink=sink, clock=VirtualClock(),
            noted=Counter[Noted](),
        )  # fmt: skip
        for replayed, frames in messages:
            if replayed:
                subscription._take_replayed([b"", b"", *frames[1:]])
            else:
                subscription._take_live(frames)
            for _ in subscription._work or ():
                pass
        subscription.close()
        entries = len(cache) + len(self._bystander)
        if self._index.entries != entries or entries > MAX_ENTRIES:
            raise Found(f"the index counts {self._index.entries} entries, its caches hold {entries}")
        if len(self._bystander) != self._known:
            raise Found("an engine's events changed what is known of another")
        self._index.leave(self._number)
        while self._index.sweep(MAX_ENTRIES):
            pass
        if self._index.entries != self._known:
            raise Found("an engine that is gone left entries behind")

    def finish(self) -> None:
        self._loop.close()


def _spoiled_events(rng: random.Random, events: list[dict[str, Any]]) -> Any:
    changed = [dict(event) for event in events]
    for event in changed:
        if rng.random() < 0.5:
            key = rng.choice((*event, "extra_keys", "group_idx", "locality", "lora_name", "kv_cache_spec_kind"))
            event[key] = rng.choice((odd(rng), [odd(rng)], [[odd(rng)], None], 2**63, _HASHES[0], [_HASHES[0], 5]))
    return changed


def _packed(value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError):  # what msgpack has no form for
        return b"\xc1"


_VLLM_PAGE: Final = b"""# HELP vllm:num_requests_running Number.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:lora_requests_info{max_lora="1",running_lora_adapters="a,b",waiting_lora_adapters=""} 1.7e+09
"""
_PAGE_TOKENS: Final = (
    b"{", b"}", b'"', b" ", b"\n", b"NaN", b"+Inf", b"-Inf", b"-1", b"1e400", b"\\", b'\\"', b'le="+Inf"', b"=", b",",
    b"#", b"0x10", b"_", b"\xff", b"vllm:num_requests_running", b"paceline_router_queued_requests 1\n", b"1_0",
    b"9" * 400, b"[" * 1100,
)  # fmt: skip


class Pages(Plain):
    """Metrics pages of engines and of routers, and Prometheus's answers made of the same samples."""

    name = "pages"
    share = 14

    def __init__(self) -> None:
        router = FakeRouter(queued=1)
        router.arrive(500, 100)
        router.answer(500, 20)
        router.engines["e"] = EngineGauges(1, 2, 0.5, 100)
        self._router = text_of(router.samples()).encode()
        self._all = (_VLLM_PAGE, self._router)

    def make(self, rng: random.Random) -> bytes:
        return mutated(rng, rng.choice(self._all), self._all, _PAGE_TOKENS)

    def check(self, data: bytes) -> None:
        load = read_load(data)
        if load is not None and not (load.requests >= 0 and 0 <= load.kv_usage <= 1):
            raise Found(f"a load of {load}")
        try:
            samples = list(read_lines(data.decode("utf-8", "replace")))
        except BadPage:
            return
        try:
            page = make_page(0.0, samples)
        except BadPage:
            page = None
        if page is not None and not math.isfinite(page.queued_seconds):
            raise Found("a page with a number that is none")
        series = [
            Series({"__name__": sample.name, "pod": "p", **sample.labels}, [(1.0, repr(sample.value))])
            for sample in samples
        ]
        make_reading(series)


_ANSWER: Final = {
    "status": "success", "warnings": [], "error": "",
    "data": {
        "resultType": "matrix",
        "result": [
            {"metric": {"__name__": "paceline_router_queued_requests", "pod": "p"}, "values": [[1.5, "3"], [2, "NaN"]]},
            {"metric": {"pod": "q", "engine": "e"}, "values": [[1, "1e3"]]},
        ],
    },
}  # fmt: skip


class Answers(Plain):
    """What Prometheus says, or whoever stands in its place."""

    name = "prometheus"
    share = 6

    def make(self, rng: random.Random) -> bytes:
        data = json_bytes(rng, spoiled(rng, _ANSWER))
        return mutated(rng, data) if rng.random() < 0.3 else data

    def check(self, data: bytes) -> None:
        try:
            found = _decode(200, data, _Matrix)
        except _Unusable:
            return
        make_reading(found.result)


_STREAM: Final = (
    b'data: {"id":"c","choices":[{"index":0,"text":"a b","finish_reason":null,"token_ids":[5],'
    b'"prompt_token_ids":[1,2]}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"text":"c\\n","finish_reason":null,"token_ids":[6]}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"text":"d","finish_reason":null,"token_ids":[7]}]}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"text":"","finish_reason":"stop","token_ids":[]}]}\n\n'
    b"data: [DONE]\n\n",
    b'data: {"prompt_token_ids":[1],"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"x","tool_calls":[]},"token_ids":[9]}]}\n\n'
    b'data: {"error":{"message":"broke","code":500}}\n\n',
)
_STREAM_TOKENS: Final = (
    b"data: ", b"\n\n", b"\n", b"\r\n\r\n", b"data: [DONE]\n\n", b'"token_ids":[', b"]", b"null", b'"', b"\\", b"\\u0",
    b"\\ud83d", b"\\ude00", b"\xff", b"{", b"}", b"9" * 25, b"-1", b'"text":"', b'"error":', b'"code":"x"',
    b": ping\n\n", b',"x":' + b"[" * 1100,
)  # fmt: skip


class Streams(Plain):
    """A stream of an answer, cut anywhere, through what notes its tokens."""

    name = "streams"
    share = 10

    def make(self, rng: random.Random) -> bytes:
        return mutated(rng, rng.choice(_STREAM), _STREAM, _STREAM_TOKENS)

    def check(self, data: bytes) -> None:
        for show_ids in (True, False):
            transcript = Transcript(show_ids=show_ids)
            shown = bytearray()
            step = 1 + len(data) // 7
            for start in range(0, len(data), step):
                shown += transcript.take(data[start : start + step])
                if transcript.fault is not None:
                    break
            transcript.unsure()
            transcript.text.encode("utf-8", "surrogatepass")
            if show_ids and transcript.fault is None and bytes(shown) + transcript.lost() != data:
                raise Found("a stream that is passed on as it is has changed")
            if len(transcript.ids) != transcript.tokens:
                raise Found("ids and their number differ")


TARGETS: Final = (CacheEvents, Pages, Answers, Streams)
