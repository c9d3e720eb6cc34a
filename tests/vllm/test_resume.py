"""A real engine is killed under streams; the other one says the rest, token for token as if nothing had happened."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Any

import httpx
import openai
import pytest

from paceline.api import wire
from tests.series import series
from tests.vllm.engines import MODEL, EnginePair, RouterProcess, processes_of

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

TOKENS = 600
WORKED_SECONDS = 0.02
"""At a time, by an engine that is slowed down."""
PROMPTS = ("Once upon a time", "Ein Router ging über die Brücke", "日本語のテキスト。", "def main():\n    ")


async def read(client: openai.AsyncOpenAI, url: str, prompt: str, reached: asyncio.Semaphore | None) -> dict[str, Any]:
    """One stream to its end; ``reached`` is released when it is under way."""
    common: dict[str, Any] = {
        "model": MODEL, "stream": True, "max_tokens": TOKENS, "temperature": 0,
        "stream_options": {"include_usage": True}, "extra_body": {"ignore_eos": True},
    }  # fmt: skip
    if url == "chat":
        messages: Any = [{"role": "user", "content": prompt}]
        pieces = await client.chat.completions.create(messages=messages, **common)
    else:
        pieces = await client.completions.create(prompt=prompt, **common)
    text, reason, usage, count = "", None, None, 0
    try:
        async for piece in pieces:
            usage = piece.usage or usage
            for choice in piece.choices:
                text += (choice.delta.content if url == "chat" else choice.text) or ""
                reason = choice.finish_reason or reason
            count += 1
            if count == 1 and reached is not None:
                reached.release()
    finally:
        if not count and reached is not None:
            reached.release()  # It ended before: nobody has to wait for it.
    return {"text": text, "reason": reason, "prompt": usage.prompt_tokens, "answer": usage.completion_tokens}


async def slow_down(computing: Sequence[int]) -> None:
    """Let processes work a tenth of the time. An engine that has the machine to itself is done with an answer before
    the router, or the client, has read the beginning of it.
    """
    while True:
        for pid in computing:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(9 * WORKED_SECONDS)
        for pid in computing:
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(WORKED_SECONDS)


async def test_streams_whose_engine_is_killed_come_out_as_if_nothing_had_happened(
    pair: EnginePair, router_process: RouterProcess
) -> None:
    async with httpx.AsyncClient(timeout=300) as http:
        client = openai.AsyncOpenAI(
            base_url=f"{router_process.url}/v1", api_key="none", max_retries=0, http_client=http
        )
        asked = [(url, prompt) for url in ("chat", "completion") for prompt in PROMPTS]
        router_process.assign(pair.b.endpoint(wire.Role.DECODE))
        whole = await asyncio.gather(*(read(client, *one, None) for one in asked))
        router_process.assign(pair.a.endpoint(wire.Role.DECODE))
        reached = asyncio.Semaphore(0)
        computing = [pid for pid, name in processes_of(pair.a.pid).items() if name.startswith("VLLM::")]
        assert computing
        slowed = asyncio.create_task(slow_down(computing))
        try:
            streams = [asyncio.create_task(read(client, *one, reached)) for one in asked]
            for _ in asked:
                await reached.acquire()
            await asyncio.to_thread(
                router_process.assign, pair.a.endpoint(wire.Role.DECODE), pair.b.endpoint(wire.Role.DECODE)
            )
            cut_off = sum(not one.done() for one in streams)
        finally:
            slowed.cancel()
            os.killpg(pair.a.pid, signal.SIGKILL)
        broken = await asyncio.gather(*streams)
        page = (await http.get(f"{router_process.admin}/metrics")).text
    assert all(one["answer"] == TOKENS and one["reason"] == "length" for one in whole)
    assert broken == whole
    outcomes = {labels["outcome"]: value for labels, value in series(page, "paceline_router_resumes_total")}
    # Each went on once, and more than once where the other engine was slow enough to be given up for a moment.
    assert outcomes.pop("ok") >= cut_off > 0
    assert not any(outcomes.values())
