"""Answers in vLLM's shape, streamed or whole. The engine loop calls :meth:`token`; no task wakes up for a token.

Field order and which fields are null follow vLLM 0.32: streamed chunks hold the fields that it sets, whole answers all.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from paceline_worker.emulator.generation import Generation
from paceline_worker.emulator.protocol import Plan
from paceline_worker.emulator.tokens import token_strings
from paceline_worker.http.message import Response

SSE_HEADERS: Final = ((b"content-type", b"text/event-stream; charset=utf-8"),)
JSON_HEADERS: Final = ((b"content-type", b"application/json"),)

_DONE: Final = b"data: [DONE]\n\n"
_GARBAGE: Final = b'data: {"id": \x00\xff not an event\n\n'

_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Heading:
    """What every chunk of an answer begins with."""

    id: str
    created: int
    model: str
    chat: bool
    fingerprint: str
    prompt_tokens_details: bool
    """Whether usage says how much of the prompt was cached."""


class _Answer:
    """Counts its generations; ``done`` is set after the last token of the last one."""

    def __init__(self, heading: Heading, plan: Plan) -> None:
        self.heading = heading
        self.plan = plan
        self.generations: list[Generation] = []
        self.done = asyncio.Event()
        self._pending = len(plan.prompts) * plan.choices

    def usage(self, *, whole: bool) -> dict[str, Any]:
        """Token counts of all choices; with ``whole`` the fields that are null too."""
        first = self.generations[:: self.plan.choices]
        prompt = sum(len(generation.prompt) for generation in first)
        completion = sum(len(generation.output) for generation in self.generations)
        counts: dict[str, Any] = _usage(prompt, completion)
        if self.heading.prompt_tokens_details:
            sequence = first[-1].sequence
            cached = sequence.cached_tokens + sequence.host_tokens + sequence.remote_tokens
            counts["prompt_tokens_details"] = {
                "cached_tokens": cached, "created_cache_tokens": None, "multimodal_tokens": None,
            }  # fmt: skip
        elif whole:
            counts["prompt_tokens_details"] = None
        if whole:
            counts["completion_tokens_details"] = None
        return counts


class Stream(_Answer):
    """Server-sent events, one write a token."""

    def __init__(self, heading: Heading, plan: Plan, response: Response) -> None:
        super().__init__(heading, plan)
        self.garbage = False
        """Fault: write nonsense instead of events."""
        self._response = response
        self._introduced: set[int] = set()
        self._templates: dict[int, tuple[bytes, bytes, bytes]] = {}
        self._offsets: dict[int, int] = {}
        self._plain = plan.logprobs is None and not plan.continuous_usage

    def start(self) -> None:
        """Send the headers."""
        self._response.start(200, SSE_HEADERS)

    def token(self, generation: Generation, token: int, text: str) -> None:
        """See :class:`paceline_worker.emulator.generation.Sink`."""
        if self.garbage:
            data = _GARBAGE
        elif self._plain and generation.finish_reason is None and generation.index in self._introduced:
            head, middle, tail = self._templates[generation.index]
            ids = b"[%d]" % token if self.plan.token_ids else b"null"
            data = b"".join((head, _encode(text), middle, ids, tail))
        else:
            data = self._chunk(generation, token, text)
        if generation.finish_reason is None:
            self._response.write(data)
            return
        self._pending -= 1
        if self._pending:
            self._response.write(data)
            return
        if self.plan.include_usage:
            data += self._event([], {"usage": self.usage(whole=False), "system_fingerprint": self.heading.fingerprint})
        self._response.write(data + _DONE)
        self._response.end()
        self.done.set()

    def _chunk(self, generation: Generation, token: int, text: str) -> bytes:
        data = b""
        index, plan = generation.index, self.plan
        first = index not in self._introduced
        if first:
            self._introduced.add(index)
            self._templates[index] = self._template(index)
            if self.heading.chat:
                data = self._role_chunk(generation)
        choice: dict[str, Any] = {"index": index}
        if self.heading.chat:
            choice["delta"] = {"content": text}
        else:
            choice["text"] = text
        choice["logprobs"] = self._logprobs(generation, token)
        choice["finish_reason"] = generation.finish_reason
        if not self.heading.chat:
            choice["stop_reason"] = generation.stop_reason
            choice["prompt_token_ids"] = generation.prompt if first and plan.token_ids else None
        elif generation.finish_reason is not None:
            choice["stop_reason"] = generation.stop_reason
        choice["token_ids"] = [token] if plan.token_ids else None
        rest: dict[str, Any] = {}
        if plan.continuous_usage:
            rest["usage"] = _usage(len(generation.prompt), len(generation.output))
        if generation.finish_reason is not None and not plan.include_usage:
            rest["system_fingerprint"] = self.heading.fingerprint
        return data + self._event([choice], rest)

    def _role_chunk(self, generation: Generation) -> bytes:
        choice = {
            "index": generation.index, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
            "finish_reason": None,
        }  # fmt: skip
        rest: dict[str, Any] = {}
        if self.plan.continuous_usage:
            rest["usage"] = _usage(len(generation.prompt), 0)
        rest["prompt_token_ids"] = generation.prompt if self.plan.token_ids else None
        rest["prompt_text"] = None
        return self._event([choice], rest)

    def _event(self, choices: list[dict[str, Any]], rest: dict[str, Any]) -> bytes:
        return b"data: %b\n\n" % _encode({**_head(self.heading, stream=True), "choices": choices, **rest})

    def _template(self, index: int) -> tuple[bytes, bytes, bytes]:
        """An event up to its text, from there to its token ids, and the rest."""
        head = _encode(_head(self.heading, stream=True))[:-1]
        if self.heading.chat:
            before = b'data: %b,"choices":[{"index":%d,"delta":{"content":' % (head, index)
            return before, b'},"logprobs":null,"finish_reason":null,"token_ids":', b"}]}\n\n"
        before = b'data: %b,"choices":[{"index":%d,"text":' % (head, index)
        middle = b',"logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":'
        return before, middle, b"}]}\n\n"

    def _logprobs(self, generation: Generation, token: int) -> dict[str, Any] | None:
        if self.plan.logprobs is None:
            return None
        entry = _alternatives(generation, token, self.plan.logprobs)
        if self.heading.chat:
            return {"content": [_chat_logprobs(entry)]}
        offset = self._offsets.get(generation.index, 0)
        self._offsets[generation.index] = offset + len(entry[0][0])
        return _completion_logprobs([entry], offset)


class Whole(_Answer):
    """One JSON document when all choices have ended."""

    def __init__(self, heading: Heading, plan: Plan) -> None:
        super().__init__(heading, plan)
        self._texts: dict[int, list[str]] = {}
        self._entries: dict[int, list[list[tuple[str, float]]]] = {}

    def token(self, generation: Generation, token: int, text: str) -> None:
        """See :class:`paceline_worker.emulator.generation.Sink`."""
        self._texts.setdefault(generation.index, []).append(text)
        if self.plan.logprobs is not None:
            entry = _alternatives(generation, token, self.plan.logprobs)
            self._entries.setdefault(generation.index, []).append(entry)
        if generation.finish_reason is not None:
            self._pending -= 1
            if not self._pending:
                self.done.set()

    def body(self, transfer: dict[str, Any] | None) -> bytes:
        """The document. ``transfer`` are its ``kv_transfer_params``."""
        heading, plan = self.heading, self.plan
        answer: dict[str, Any] = {
            **_head(heading, stream=False),
            "choices": [self._choice(generation) for generation in self.generations],
            "service_tier": None,
            "system_fingerprint": heading.fingerprint,
            "usage": self.usage(whole=True),
        }
        if heading.chat:
            answer["prompt_logprobs"] = None
            answer["prompt_token_ids"] = self.generations[0].prompt if plan.token_ids else None
            answer["prompt_text"] = None
        answer["kv_transfer_params"] = transfer
        answer["ec_transfer_params"] = None
        answer["metrics"] = None
        return _encode(answer)

    def _choice(self, generation: Generation) -> dict[str, Any]:
        text = "".join(self._texts.get(generation.index, ()))
        ids = generation.output if self.plan.token_ids else None
        end = {"finish_reason": generation.finish_reason, "stop_reason": generation.stop_reason}
        entries = self._entries.get(generation.index)
        if self.heading.chat:
            message = {
                "role": "assistant", "content": text, "refusal": None, "annotations": None, "audio": None,
                "function_call": None, "reasoning": None,
            }  # fmt: skip
            logprobs = None if entries is None else {"content": [_chat_logprobs(entry) for entry in entries]}
            return {
                "index": generation.index, "message": message, "logprobs": logprobs, **end, "token_ids": ids,
                "routed_experts": None,
            }  # fmt: skip
        return {
            "index": generation.index,
            "text": text,
            "logprobs": None if entries is None else _completion_logprobs(entries, 0),
            **end,
            "token_ids": ids,
            "prompt_logprobs": None,
            "prompt_token_ids": generation.prompt if self.plan.token_ids else None,
            "routed_experts": None,
        }


Answer = Stream | Whole


def _head(heading: Heading, *, stream: bool) -> dict[str, Any]:
    kind = ("chat.completion.chunk" if stream else "chat.completion") if heading.chat else "text_completion"
    return {"id": heading.id, "object": kind, "created": heading.created, "model": heading.model}


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def _alternatives(generation: Generation, token: int, count: int) -> list[tuple[str, float]]:
    """The token and ``count`` others as text with their log probability."""
    if generation.voice is None:
        raise AssertionError("a token was reported before it was said")
    entries = generation.voice.logprobs(count)
    return list(zip(token_strings([token, *(other for other, _ in entries[1:])]), (p for _, p in entries), strict=True))


def _completion_logprobs(entries: list[list[tuple[str, float]]], offset: int) -> dict[str, Any]:
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += len(entry[0][0])
    return {
        "text_offset": offsets,
        "token_logprobs": [entry[0][1] for entry in entries],
        "tokens": [entry[0][0] for entry in entries],
        "top_logprobs": [dict(entry) for entry in entries],
    }


def _chat_logprobs(entry: list[tuple[str, float]]) -> dict[str, Any]:
    said, *others = ({"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in entry)
    # vLLM counts the sampled token among the alternatives that were asked for.
    return {**said, "top_logprobs": [said, *others][: len(others)]}
