"""Measuring a live engine through its OpenAI API: prompts one at a time, then batches that decode together.

Nothing else may use the engine meanwhile. Prompts are token ids that no other request shares, so no cache helps but
where a point asks for it. Prefills are timed by the engine's own metrics where it has vLLM's; elsewhere by the clock,
less what HTTP costs by itself.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from paceline.errors import EngineError
from paceline.planning.points import Points
from paceline.policy.quantiles import interpolated
from paceline.policy.scaling.fit import PrefillPoint, StepPoint

PROMPTS: Final = ((256, 0), (1024, 0), (4096, 0), (8000, 0), (256, 4096), (1024, 4096), (4096, 4096))
"""(new, cached) tokens of the prefills measured."""
BATCHES: Final = ((1, 256), (1, 8000), (4, 2048), (16, 256), (16, 4096), (48, 256), (48, 2048), (64, 512))
"""(sequences, context of each) of the steps measured."""
REPEATS: Final = 3
"""Of each point; the median counts."""
STEADY_TOKENS: Final = 48
"""Tokens that every sequence of a batch generates while all of them decode, at the least."""
TOKENS_A_STEP: Final = 1024
"""Prompt tokens of one step, at the least: how many tokens the first of a batch generate until the last has begun."""
KV_SHARE: Final = 0.8
"""Batches that would fill more of the KV cache are left out: they would be preempted."""
TIMEOUT_SECONDS: Final = 300.0
PINGS: Final = 10
_IDS: Final = (10, 250)
"""Token ids that every vocabulary has."""
_PREFILL_SUM: Final = re.compile(r"^vllm:request_prefill_time_seconds_sum(?:\{[^}]*\})? ([0-9.eE+-]+)", re.MULTILINE)
_CACHE_INFO: Final = re.compile(r"^vllm:cache_config_info\{([^}]*)\}", re.MULTILINE)

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What was measured, and what the engine says of itself."""

    model: str
    points: Points
    kv_capacity_tokens: int | None
    """As its metrics say; None if they don't."""


async def measure(
    url: str,
    *,
    model: str | None,
    seed: int,
    progress: Progress,
    transport: httpx.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Endpoint:
    """Measure the grid. ``model`` None takes the one that the endpoint serves. Raises EngineError."""
    limits = httpx.Limits(max_connections=2 * max(batch for batch, _ in BATCHES))
    async with httpx.AsyncClient(
        base_url=url.rstrip("/").removesuffix("/v1"), timeout=TIMEOUT_SECONDS, limits=limits, transport=transport
    ) as client:
        probe = _Probe(client, clock, random.Random(seed))  # noqa: S311 - reproducible, not secret
        try:
            return await probe.run(model, progress)
        except httpx.HTTPError as error:
            raise EngineError(f"--endpoint {url}: {str(error) or type(error).__name__}.") from None


def kv_capacity(page: str) -> int | None:
    """Tokens that the KV cache holds, by a page of vLLM's metrics; None if it doesn't say."""
    found = _CACHE_INFO.search(page)
    if found is None:
        return None
    labels = dict(re.findall(r'(\w+)="([^"]*)"', found[1]))
    blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
    return int(blocks) * int(size) or None if blocks.isdigit() and size.isdigit() else None


def step_of(streams: Sequence[Sequence[tuple[float, int]]]) -> tuple[float, float] | None:
    """(seconds of a step, mean tokens generated before it) while all streams decode; None if they hardly overlap.

    A stream is (time, tokens so far) of each chunk.
    """
    begin = max(stream[0][0] for stream in streams)
    end = min(stream[-1][0] for stream in streams)
    shares, before = [], []
    for stream in streams:
        inside = [(at, count) for at, count in stream if begin <= at <= end]
        if len(inside) < 2 or inside[-1][1] <= inside[0][1]:
            return None
        (first, low), (last, high) = inside[0], inside[-1]
        shares.append((last - first) / (high - low))
        before.append((low + high) / 2)
    return sum(shares) / len(shares), sum(before) / len(before)


class _Probe:
    def __init__(self, client: httpx.AsyncClient, clock: Callable[[], float], rng: random.Random) -> None:
        self._client = client
        self._clock = clock
        self._rng = rng
        self._model = ""

    async def run(self, model: str | None, progress: Progress) -> Endpoint:
        card = await self._card(model)
        self._model = str(card["id"])
        longest = int(card.get("max_model_len") or 1 << 30)
        room = await self._kv_capacity()
        await self._completion(self._prompt(64), 8)
        own = await self._prefill_sum() is not None
        overhead = 0.0 if own else await self._overhead()
        prompts = [one for one in PROMPTS if sum(one) < longest]
        batches = [
            (batch, context)
            for batch, context in BATCHES
            if context + _outputs(batch, context) < longest
            and (room is None or batch * (context + _outputs(batch, context)) <= KV_SHARE * room)
        ]
        total, done = len(prompts) + len(batches), 0
        prefills, steps = [], []
        for new, cached in prompts:
            progress(f"prefill of {new} after {cached} tokens", done / total)
            prefills.append(PrefillPoint(new, cached, await self._prefill(new, cached, overhead, own=own)))
            done += 1
        for batch, context in batches:
            progress(f"batch of {batch} at {context} tokens", done / total)
            step = await self._step(batch, context)
            if step is not None:
                steps.append(step)
            done += 1
        return Endpoint(self._model, Points(tuple(prefills), tuple(steps)), room)

    async def _card(self, model: str | None) -> dict[str, Any]:
        answer = await self._client.get("/v1/models")
        answer.raise_for_status()
        cards: list[dict[str, Any]] = answer.json().get("data") or [{}]
        found = next((card for card in cards if model in (None, card.get("id"))), None)
        if found is None or "id" not in found:
            known = ", ".join(str(card.get("id")) for card in cards)
            raise EngineError(f"the endpoint does not serve {model!r}; it serves {known}.")
        return found

    async def _kv_capacity(self) -> int | None:
        answer = await self._client.get("/metrics")
        return kv_capacity(answer.text) if answer.status_code == httpx.codes.OK else None

    async def _overhead(self) -> float:
        taken = []
        for _ in range(PINGS):
            began = self._clock()
            await self._client.get("/v1/models")
            taken.append(self._clock() - began)
        return interpolated(taken, 0.5)

    async def _prefill_sum(self) -> float | None:
        """Seconds of all prefills so far, by the engine's metrics; None if it has none such."""
        answer = await self._client.get("/metrics")
        found = _PREFILL_SUM.findall(answer.text) if answer.status_code == httpx.codes.OK else []
        return sum(map(float, found)) if found else None

    async def _prefill(self, new: int, cached: int, overhead: float, *, own: bool) -> float:
        taken = []
        for _ in range(REPEATS):
            prefix = self._prompt(cached)
            if cached:
                await self._completion(prefix, 1)
            before = (await self._prefill_sum() or 0.0) if own else self._clock()
            await self._completion([*prefix, *self._prompt(new)], 1)
            after = (await self._prefill_sum() or 0.0) if own else self._clock()
            taken.append(after - before)
        return max(1e-6, interpolated(taken, 0.5) - overhead)

    async def _step(self, batch: int, context: int) -> StepPoint | None:
        outputs = _outputs(batch, context)
        found = []
        for _ in range(REPEATS):
            streams = await asyncio.gather(*[self._stream(self._prompt(context), outputs) for _ in range(batch)])
            steady = step_of(streams) if all(streams) else None
            if steady is not None:
                found.append(steady)
        if not found:
            return None
        seconds, generated = sorted(found)[len(found) // 2]
        return StepPoint(batch, batch * (context + generated), seconds)

    async def _completion(self, prompt: list[int], tokens: int) -> None:
        answer = await self._client.post("/v1/completions", json=self._body(prompt, tokens))
        if answer.status_code != httpx.codes.OK:
            raise EngineError(f"the endpoint answered {answer.status_code}: {answer.text[:300]}")

    async def _stream(self, prompt: list[int], tokens: int) -> list[tuple[float, int]]:
        usage = {"include_usage": True, "continuous_usage_stats": True}
        body = self._body(prompt, tokens) | {"stream": True, "stream_options": usage}
        async with self._client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != httpx.codes.OK:
                text = (await answer.aread()).decode(errors="replace")
                raise EngineError(f"the endpoint answered {answer.status_code}: {text[:300]}")
            # Nothing is parsed while the batch runs: that would slow down what is measured.
            return _counts([(self._clock(), part) async for part in answer.aiter_bytes()])

    def _body(self, prompt: list[int], tokens: int) -> dict[str, Any]:
        return {"model": self._model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}

    def _prompt(self, tokens: int) -> list[int]:
        return [self._rng.randrange(*_IDS) for _ in range(tokens)]


def _outputs(batch: int, context: int) -> int:
    """Tokens that each sequence of a batch generates, so that all decode together for long enough."""
    return STEADY_TOKENS + 2 * (batch * context // TOKENS_A_STEP + 1)


def _counts(parts: Sequence[tuple[float, bytes]]) -> list[tuple[float, int]]:
    """(time, tokens so far) at each event of a stream, whose parts may end anywhere."""
    seen: list[tuple[float, int]] = []
    rest = b""
    for at, part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                data = json.loads(line.removeprefix(b"data: "))
                if data.get("choices") and data.get("usage"):
                    seen.append((at, int(data["usage"]["completion_tokens"])))
    return seen
