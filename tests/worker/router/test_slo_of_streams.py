"""Whether streams met their objective, through a whole router: those that broke and went on among them."""

from __future__ import annotations

from pathlib import Path

from tests.worker.router.resume.test_resumer import all_die_but_the_last, only, routed, stream


async def test_a_stream_that_went_on_elsewhere_is_judged_once_like_any_other(tmp_path: Path) -> None:
    async with routed(tmp_path) as (router, engines):
        await all_die_but_the_last(engines, after=3)
        await only(router, 0)
        await stream(router, "/v1/completions")
        went_on = await router.metric("resumes_total", outcome="ok")
        counts = [
            await router.metric("slo_requests_total", **{"class": "default", "met": met}) for met in ("yes", "no")
        ]
    assert went_on == 1
    assert sum(counts) == 1
