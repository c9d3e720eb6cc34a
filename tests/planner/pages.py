"""Pages of routers that tests make up: counters that grow by requests, as a router's own would."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from paceline.planner.pages import BUCKETS, Counters, EngineGauges, RouterPage, Sample, make_page
from paceline.policy.scaling.demand import TOKEN_BOUNDS

NAMES = [*(str(float(bound)) for bound in TOKEN_BOUNDS), "+Inf"]
PROMPTS = [*(str(bound) for bound in TOKEN_BOUNDS), "+Inf"]


@dataclass
class FakeRouter:
    """Counts as a router does."""

    uncached: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    uncached_tokens: int = 0
    cached: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    cached_tokens: int = 0
    answers: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    answer_prompts: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    answer_tokens: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    first: list[int] = field(default_factory=lambda: [0, 0])
    ended: list[int] = field(default_factory=lambda: [0, 0, 0])
    queued: int = 0
    queued_decode: int = 0
    queued_seconds: float = 0.0
    engines: dict[str, EngineGauges] = field(default_factory=dict)

    def arrive(self, uncached: int, cached: int = 0, *, times: int = 1) -> None:
        self.uncached[bisect_left(TOKEN_BOUNDS, uncached)] += times
        self.cached[bisect_left(TOKEN_BOUNDS, cached)] += times
        self.uncached_tokens += uncached * times
        self.cached_tokens += cached * times

    def answer(self, prompt: int, output: int, *, times: int = 1, ttft: bool = True, itl: bool = True) -> None:
        bucket = bisect_left(TOKEN_BOUNDS, prompt)
        self.answers[bucket] += times
        self.answer_prompts[bucket] += prompt * times
        self.answer_tokens[bucket] += output * times
        self.first = [self.first[0] + ttft * times, self.first[1] + times]
        both = ttft and itl
        self.ended = [self.ended[0] + itl * times, self.ended[1] + both * times, self.ended[2] + times]

    def page(self, at: float) -> RouterPage:
        return RouterPage(
            at=at,
            counters=Counters(
                uncached=tuple(self.uncached),
                uncached_tokens=float(self.uncached_tokens),
                cached=tuple(self.cached),
                cached_tokens=float(self.cached_tokens),
                answers=tuple(self.answers),
                answer_prompts=tuple(self.answer_prompts),
                answer_tokens=tuple(self.answer_tokens),
                first=(self.first[0], self.first[1]),
                ended=(self.ended[0], self.ended[1], self.ended[2]),
            ),
            queued=self.queued,
            queued_decode=self.queued_decode,
            queued_seconds=self.queued_seconds,
            engines=dict(self.engines),
        )

    def samples(self) -> list[Sample]:
        """The same in the words of a metrics page."""
        found: list[Sample] = []

        def add(name: str, value: float, **labels: str) -> None:
            found.append(Sample(f"paceline_router_{name}", labels, float(value)))

        for kind, counts, tokens in (
            ("uncached", self.uncached, self.uncached_tokens),
            ("cached", self.cached, self.cached_tokens),
        ):
            total = 0
            for name, count in zip(NAMES, counts, strict=True):
                total += count
                add("prompt_tokens_at_arrival_bucket", total, kind=kind, le=name)
            add("prompt_tokens_at_arrival_sum", tokens, kind=kind)
        for metric, values in (
            ("answers_total", self.answers),
            ("answer_prompt_tokens_total", self.answer_prompts),
            ("answer_tokens_total", self.answer_tokens),
        ):
            for name, value in zip(PROMPTS, values, strict=True):
                add(metric, value, prompt=name)
        add("first_tokens_total", self.first[0], ttft="met")
        add("first_tokens_total", self.first[1] - self.first[0], ttft="missed")
        itl, both, ended = self.ended
        add("objective_total", both, ttft="met", itl="met")
        add("objective_total", itl - both, ttft="missed", itl="met")
        add("objective_total", ended - itl, ttft="missed", itl="missed")
        add("objective_total", 0, ttft="met", itl="missed")
        add("queued_requests", self.queued)
        add("queued_decode_requests", self.queued_decode)
        add("queued_prefill_seconds", self.queued_seconds)
        for engine, gauges in self.engines.items():
            add("engine_in_flight", gauges.in_flight, engine=engine)
            add("engine_prefilling", gauges.prefilling, engine=engine)
            add("engine_kv_usage", gauges.kv_usage, engine=engine)
            add("engine_cached_tokens", gauges.cached_tokens, engine=engine)
            add("engine_suspended", gauges.suspended, engine=engine, reason=gauges.stands_out or "none")
        return found


def text_of(samples: Sequence[Sample]) -> str:
    """A page as a router sends it."""
    lines = []
    for name, labels, value in samples:
        inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
        lines.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")
    return "\n".join(lines) + "\n"


def parsed(router: FakeRouter, at: float) -> RouterPage:
    return make_page(at, router.samples())
