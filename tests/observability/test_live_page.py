"""The live page in a real browser: what a person sees while engines change their roles."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from tests.observability.browser import Tab, browser
from tests.observability.live import Prometheus
from tests.worker.router.live.scene import Scene, engine

pytestmark = pytest.mark.timeout(400)  # what the tests need may have to be fetched first

ROLES = (
    "JSON.stringify([...document.querySelectorAll('#engines li')].map(tile => [tile.dataset.engine, tile.className]))"
)
READY = "document.body?.dataset.ready === 'yes'"
COLOURS = (
    "new Set([...document.querySelectorAll('#engines li')].map(tile => getComputedStyle(tile).borderLeftColor)).size"
)
PNG = b"\x89PNG\r\n\x1a\n"


async def served(scene: Scene, port: int = 0) -> tuple[web.AppRunner, str]:
    app = web.Application()
    app.add_routes(scene.page.routes())
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
    host, taken = runner.addresses[0]
    return runner, f"http://{host}:{taken}"


async def text(tab: Tab, selector: str) -> str:
    return str(await tab.value(f"document.querySelector({selector!r}).innerText"))


async def test_a_person_sees_engines_flip_and_the_objective_missed() -> None:
    scene = Scene()
    scene.engines(engine("engine-a", "prefill"), engine("engine-b", "decode"), engine("engine-c", "decode", "starting"))
    runner, url = await served(scene)
    try:
        async with browser() as tab:
            await tab.go(f"{url}/live")
            await tab.until(READY)
            assert await text(tab, "#deployment") == "team/chat"
            assert await text(tab, "#counts") == "1 decode + 1 prefill ready, of 3"
            tiles = '[["engine-a","prefill"],["engine-b","decode"],["engine-c","away"]]'
            assert await tab.value(ROLES) == tiles
            assert await tab.value(COLOURS) == 3
            scene.engines(engine("engine-a", "prefill"), engine("engine-b", "prefill"), engine("engine-c", "decode"))
            for _ in range(20):
                scene.slo.streamed("default", ttft_seconds=9, itl_seconds=0.01)
                scene.metrics.ttft.observe(9)
            await tab.until("document.querySelector('[data-engine=engine-b]').dataset.role === 'prefill'")
            await tab.until("document.querySelector('#classes .bad')?.innerText === '0.0%'")
            assert "flipped" in str(await tab.value("document.querySelector('[data-engine=engine-b]').className"))
            assert "decode → prefill" in await text(tab, "#changes")
            assert "objective 2.00 s" in str(
                await tab.value("document.querySelector('#ttft').getAttribute('aria-label')")
            )
            await tab.until("document.querySelector('#ttft path.high').getAttribute('d').length > 8")
            picture = await tab.photograph()
            assert picture.startswith(PNG)
            assert len(picture) > 10_000
            assert tab.troubles == []
            assert all(one.startswith((url, "data:")) for one in tab.requested), tab.requested
    finally:
        await runner.cleanup()


async def test_it_goes_on_by_itself_after_the_router_was_away() -> None:
    scene = Scene()
    async with AsyncExitStack() as stack:
        runner, url = await served(scene)
        stack.push_async_callback(runner.cleanup)
        tab = await stack.enter_async_context(browser())
        await tab.go(f"{url}/live")
        await tab.until(READY)
        await runner.cleanup()
        await tab.until("document.querySelector('#connection').innerText.includes('no answer')")
        again, _ = await served(scene, int(url.rpartition(":")[2]))
        stack.push_async_callback(again.cleanup)
        await tab.until("document.querySelector('#connection').innerText.startsWith('as of')")


async def test_it_can_be_read_without_seeing_it() -> None:
    scene = Scene()
    scene.engines(engine("engine-a", "prefill"))
    runner, url = await served(scene)
    try:
        async with browser() as tab:
            await tab.go(f"{url}/live")
            await tab.until(READY)
            nodes = (await tab.ask("Accessibility.getFullAXTree"))["nodes"]
            named = {
                (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]
            }
            for role, name in (
                ("heading", "Engines"), ("list", "Engines and their roles"), ("columnheader", "First token"),
                ("rowheader", "default"), ("meter", "KV cache in use: 0.0%"),
            ):  # fmt: skip
                assert (role, name) in named, (role, name)
            images = [name for role, name in named if role in {"image", "img"}]
            assert "nothing yet; objective 2.00 s" in images
            assert await tab.value("document.documentElement.lang") == "en"
    finally:
        await runner.cleanup()


async def test_a_local_run_shows_its_engines_and_its_traffic(live: Prometheus) -> None:
    targets = live._ask("/api/v1/targets")["activeTargets"]
    (admin,) = [one["scrapeUrl"] for one in targets if "router" in one["labels"].get("pod", "")]
    async with browser() as tab:
        await tab.go(admin.replace("/metrics", "/live"))
        await tab.until(READY)
        await tab.until("document.querySelector('#ttft').dataset.last !== 'nothing yet'")
        assert await text(tab, "#deployment") == "default/quickstart"
        assert await tab.value("document.querySelectorAll('#engines li').length") == 4
        assert await tab.photograph() != await tab.photograph(dark=True)
        assert tab.troubles == []
