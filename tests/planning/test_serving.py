"""Watching an engine while it serves: only its own metrics, and nothing that it can't tell is made up."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import httpx
import pytest

from paceline.errors import EngineError
from paceline.planning import serving
from paceline.planning.serving import INTERVAL_SECONDS, LOST_LOOKS, Watched, served_profile, watch
from paceline.policy.scaling.profiles import get_profile

START = get_profile("qwen3-32b-h200-tp2")
REAL = replace(
    START,
    prefill_token=1.3 * START.prefill_token,
    step_base=1.4 * START.step_base,
    step_context=1.2 * START.step_context,
    kv_capacity_tokens=START.kv_capacity_tokens // 2,
)
URL = "http://engine:8000"


@dataclass
class Engine:
    """The metrics of an engine that is as fast as ``REAL``, in a time of its own."""

    rng: random.Random = field(default_factory=lambda: random.Random(1))
    now: float = 0.0
    looks: int = 0
    batch: int = 0
    context: int = 0
    counters: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_COUNTERS, 0.0))
    failing: Callable[[int], bool] = lambda _: False
    restarts_at: int = -1
    ranks: int = 1
    said: list[str] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        """Half a second of decoding, or one prompt alone."""
        self.now += seconds
        if self.rng.random() < 0.3:
            new = self.rng.choice((300, 1000, 4000, 12_000))
            self.batch = 0
            self._add(prompts=new, prefill_count=1, prefill_sum=REAL.prefill_seconds(new))
            return
        # Now and then the batch is another; in between it decodes for a while.
        if self.rng.random() < 0.3 or not self.batch:
            self.batch, self.context = self.rng.choice((1, 4, 16, 48, 96)), self.rng.choice((500, 2000, 4000))
        step = REAL.step_seconds(self.batch, self.batch * self.context)
        tokens = self.batch * seconds / step
        self._add(generated=tokens, itl_count=tokens, itl_sum=tokens * step)

    def _add(self, **more: float) -> None:
        for name, value in more.items():
            self.counters[name] += value

    def answer(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/metrics"
        self.looks += 1
        if self.failing(self.looks):
            return httpx.Response(503)
        if self.looks == self.restarts_at:
            self.counters = dict.fromkeys(_COUNTERS, 0.0)
        lines = []
        for rank in range(self.ranks):
            where = f'{{engine="{rank}",model_name="m"}}'
            usage = self.batch * self.context / REAL.kv_capacity_tokens
            lines += [f"{serving.RUNNING}{where} {self.batch}", f"{serving.KV_USAGE}{where} {usage}"]
            lines += [f"{name}{where} {self.counters[key]}" for key, name in _COUNTERS.items()]
            size = f'{{engine="{rank}",block_size="16",num_gpu_blocks="{REAL.kv_capacity_tokens // 16}"}}'
            lines.append(f"vllm:cache_config_info{size} 1.0")
        return httpx.Response(200, text="\n".join(lines) + "\n")

    async def watched(self, seconds: float, kv_capacity_tokens: int | None = None) -> Watched:
        return await watch(
            URL,
            START,
            seconds=seconds,
            kv_capacity_tokens=kv_capacity_tokens,
            clock=lambda: self.now,
            sleep=self.sleep,
            progress=lambda what, share: self.said.append(what),
            transport=httpx.MockTransport(self.answer),
        )


_COUNTERS = {
    "prompts": serving.PROMPTS,
    "hits": serving.HITS,
    "generated": serving.GENERATED,
    "itl_sum": f"{serving.ITL}_sum",
    "itl_count": f"{serving.ITL}_count",
    "prefill_sum": f"{serving.PREFILL}_sum",
    "prefill_count": f"{serving.PREFILL}_count",
}


async def test_an_engine_is_known_after_minutes_under_a_load_that_varies() -> None:
    watched = await Engine().watched(300)
    assert watched.looks == pytest.approx(300 / INTERVAL_SECONDS, abs=2)
    profile = served_profile(watched, name="mine", endpoint=URL)
    assert not profile.estimate
    assert profile.name == "mine"
    assert "fitted to its own metrics while it served, 300 s" in profile.provenance
    assert profile.kv_capacity_tokens == pytest.approx(REAL.kv_capacity_tokens, abs=16)
    for batch, context in ((1, 1000), (32, 2000), (90, 4000)):
        assert profile.step_seconds(batch, batch * context) == pytest.approx(
            REAL.step_seconds(batch, batch * context), rel=0.05
        )
    assert profile.prefill_seconds(8000) == pytest.approx(REAL.prefill_seconds(8000), rel=0.05)


async def test_a_kv_capacity_that_is_given_goes_before_what_the_engine_says() -> None:
    assert (await Engine().watched(3, kv_capacity_tokens=4096)).fitted.profile.kv_capacity_tokens == 4096


async def test_looks_without_an_answer_are_told() -> None:
    engine = Engine(failing=lambda look: look in (5, 6))
    await engine.watched(10)
    said = [what for what in engine.said if what.startswith("no answer")]
    assert [what[: what.index(":")] for what in said] == [
        f"no answer, {n} of {LOST_LOOKS} times in a row" for n in (1, 2)
    ]
    assert "503" in said[0]


async def test_what_was_not_seen_for_long_enough_is_not_made_up() -> None:
    watched = await Engine().watched(3)
    with pytest.raises(EngineError, match=r"not enough for a fit \(prefill: \d of 12 points.*Watch for longer"):
        served_profile(watched, name="mine", endpoint=URL)


async def test_where_only_one_of_the_two_was_seen_the_profile_remains_an_estimate() -> None:
    watched = await Engine().watched(300)
    unseen = replace(watched.fitted, prefill=replace(watched.fitted.prefill, fitted=False))
    profile = served_profile(replace(watched, fitted=unseen), name="mine", endpoint=URL)
    assert profile.estimate
    assert f"the rest is that of {START.name}" in profile.provenance


async def test_an_engine_that_starts_anew_and_one_that_stays_away_for_a_moment_do_no_harm() -> None:
    engine = Engine(restarts_at=200, failing=lambda look: 300 <= look < 300 + LOST_LOOKS - 1)
    profile = served_profile(await engine.watched(300), name="mine", endpoint=URL)
    assert profile.step_seconds(32, 64_000) == pytest.approx(REAL.step_seconds(32, 64_000), rel=0.05)


@pytest.mark.parametrize("failing", [lambda look: True, lambda look: look > 20])
async def test_an_engine_that_is_not_there_is_given_up(failing: Callable[[int], bool]) -> None:
    with pytest.raises(EngineError, match=r"--endpoint http://engine:8000: .*503"):
        await Engine(failing=failing).watched(300)


async def test_several_ranks_are_refused() -> None:
    with pytest.raises(EngineError, match="2 data-parallel ranks"):
        await Engine(ranks=2).watched(300)


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("paceline_router_requests_total 3\n", f"has no {serving.RUNNING}; give an engine of vLLM, not a router"),
        ('a{b="c} 1\n', "can't be read"),
    ],
)
def test_a_page_of_something_else_is_refused(page: str, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        serving.read_page(page, URL)
