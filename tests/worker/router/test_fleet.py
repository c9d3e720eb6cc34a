"""The router follows its fleet file, its engines' health and their load, and gives work to those that can take it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from paceline.api import wire
from paceline.local.files import replace
from paceline_worker.router.fleet import Engine, Lease, Reported
from paceline_worker.router.health import FAILURES_TO_EJECT, LONGEST_BACKOFF_SECONDS, Health
from paceline_worker.router.load import Load, read_load
from tests.waiting import until
from tests.worker.router.fakes import FakeEngine, bench, hang, status

PAGE = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.75
"""


# --- the fleet file


async def test_an_engine_that_is_draining_or_starting_gets_no_new_work(tmp_path: Path) -> None:
    one, two = FakeEngine("a"), FakeEngine("b")
    async with bench(tmp_path, one, two) as router:
        for state in (wire.EngineState.DRAINING, wire.EngineState.STARTING):
            one.state = state
            router.write_fleet(one, two)
            await until(lambda: router.router.fleet.version == router.version)
            seen = len(one.seen)
            for _ in range(8):
                assert (await router.complete()).status_code == 200
            assert len(one.seen) == seen


async def test_what_runs_on_an_engine_goes_on_while_it_drains(tmp_path: Path) -> None:
    one = FakeEngine("a")
    go = asyncio.Event()

    async def wait(engine: FakeEngine, request: object, response: object) -> None:
        engine.hanging.set()
        await go.wait()
        response.send(200, b"{}")  # type: ignore[attr-defined]

    one.behaviour = wait
    async with bench(tmp_path, one) as router:
        request = asyncio.create_task(router.complete())
        await asyncio.wait_for(one.hanging.wait(), 60)
        router.write_fleet()
        await until(lambda: len(router.router.fleet) == 0)
        go.set()
        assert (await request).status_code == 200


async def test_a_change_of_role_moves_new_work_without_a_restart(tmp_path: Path) -> None:
    one, two = FakeEngine("a"), FakeEngine("b", role=wire.Role.PREFILL)
    async with bench(tmp_path, one, two) as router:
        await router.complete("short")
        one.role, two.role = two.role, one.role
        before = router.router.fleet.engines["a"]
        router.write_fleet(one, two)
        await until(lambda: router.router.fleet.version == router.version)
        await router.complete("short")
        assert router.router.fleet.engines["a"] is before
    assert (len(one.seen), len(two.seen)) == (1, 1)


async def test_a_restarted_engine_is_another_engine(tmp_path: Path) -> None:
    one = FakeEngine("a")
    async with bench(tmp_path, one) as router:
        before = router.router.fleet.engines["a"]
        one.start_id = "2"
        router.write_fleet(one)
        await until(lambda: router.router.fleet.version == router.version)
        assert router.router.fleet.engines["a"] is not before
        assert before.gone
        assert (await router.complete()).status_code == 200


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"{",
        b'{"version":2,"engines":[{"name":"a"}]}',
        b'{"version":2,"engines":[],"unknown":1}',
        b'{"version":-1}',
        b'{"version":2,"engines":[%b,%b]}'
        % ((b'{"name":"a","host":"h","port":1,"role":"both","state":"ready","startId":"1"}',) * 2),
    ],
    ids=["empty", "cut", "missing fields", "unknown field", "out of range", "one name twice"],
)
async def test_a_fleet_file_that_is_not_valid_is_refused_and_the_last_good_one_kept(
    tmp_path: Path, document: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    one = FakeEngine("a")
    async with bench(tmp_path, one) as router:
        replace(router.fleet_file, document)
        async with asyncio.timeout(60):
            while await router.metric("fleet_refused_total") == 0:  # noqa: ASYNC110 - what has no event
                await asyncio.sleep(0.005)
        assert "The last good fleet stays in force." in caplog.text
        assert (await router.complete()).status_code == 200
        assert await router.metric("fleet_refused_total") == 1, "it is complained of once"
        assert await router.metric("fleet_version") == 1


async def test_a_fleet_file_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    one = FakeEngine("a")
    async with bench(tmp_path, one) as router:
        router.fleet_file.unlink()
        router.write_fleet(one)
        await until(lambda: router.router.fleet.version == 2)
        assert (await router.complete()).status_code == 200


async def test_the_admin_server_shows_what_the_router_believes(tmp_path: Path) -> None:
    one, two = FakeEngine("a"), FakeEngine("b", role=wire.Role.PREFILL)
    async with bench(tmp_path, one, two) as router:
        fleet = (await router.client.get(f"{router.admin_url}/fleet")).json()
        assert [(engine["name"], engine["role"], engine["usable"]) for engine in fleet["engines"]] == [
            ("a", "decode", True),
            ("b", "prefill", True),
        ]
        assert (await router.client.get(f"{router.admin_url}/healthz")).status_code == 200
        ready = await router.client.get(f"{router.admin_url}/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (200, "2 of 2 engines are usable")
        page = (await router.client.get(f"{router.admin_url}/metrics")).text
    assert 'paceline_router_fleet_engines{role="decode",state="ready"} 1.0' in page
    assert 'paceline_router_engine_in_flight{engine="a"} 0.0' in page
    assert "paceline_router_queued_requests 0.0" in page
    assert "paceline_router_queued_decode_requests 0.0" in page
    assert "paceline_router_step_share 1.0" in page


# --- health


async def test_an_engine_that_answers_its_health_check_badly_is_left_out_until_it_is_well(tmp_path: Path) -> None:
    one, two = FakeEngine("a"), FakeEngine("b")
    async with bench(tmp_path, one, two) as router:
        one.healthy = False
        ill = router.router.fleet.engines["a"]
        await until(lambda: not ill.usable)
        seen = len(one.seen)
        for _ in range(6):
            await router.complete()
        assert len(one.seen) == seen
        one.healthy = True
        await until(lambda: ill.usable)


async def test_requests_that_fail_eject_an_engine_before_its_health_check_does(tmp_path: Path) -> None:
    one, two = FakeEngine("a"), FakeEngine("b")
    one.behaviour = status(503)
    async with bench(tmp_path, one, two) as router:
        replies = [await router.complete() for _ in range(20)]
        assert {reply.status_code for reply in replies} == {200}
        assert await router.metric("retries_total", reason="status-503") >= 1
    assert len(one.seen) <= FAILURES_TO_EJECT + 1


async def test_an_error_of_a_single_request_does_not_eject_engines(tmp_path: Path) -> None:
    one = FakeEngine("a")
    one.behaviour = status(500)
    async with bench(tmp_path, one) as router:
        for _ in range(FAILURES_TO_EJECT * 2):
            await router.complete()
        assert router.router.fleet.engines["a"].usable


def test_an_engine_that_refuses_connections_is_out_at_once_and_back_after_one_good_check() -> None:
    health = Health()
    assert health.failed(refused=True)
    assert not health.usable
    health.request_succeeded()
    assert not health.usable, "the answer may have been on its way for long"
    assert health.check_succeeded()
    assert health.usable
    assert health.ejections == 1


def test_failures_count_only_in_a_row() -> None:
    health = Health()
    for _ in range(10):
        assert not health.failed(refused=False)
        assert not health.failed(refused=False)
        health.request_succeeded()
    assert [health.check_failed(refused=False) for _ in range(FAILURES_TO_EJECT)] == [False, False, True]


def test_checks_of_an_ejected_engine_begin_at_once_and_get_rarer() -> None:
    health = Health()
    health.failed(refused=True)
    pauses = []
    for _ in range(10):
        pauses.append(health.next_check_seconds)
        health.check_failed(refused=True)
    assert pauses == sorted(pauses)
    assert pauses[0] <= 0.1
    assert pauses[-1] == LONGEST_BACKOFF_SECONDS


# --- load


def test_the_adapters_at_work_are_those_of_the_newest_sample() -> None:
    line = 'vllm:lora_requests_info{{max_lora="2",running_lora_adapters="{}",waiting_lora_adapters="w"}} {}\n'
    load = read_load(PAGE + (line.format("a,b", "1.7e9") + line.format("c", "1.8e9")).encode())
    assert load is not None
    assert load.adapters == frozenset({"c"})
    assert read_load(PAGE + line.format("a", "soon").encode()) == Load(requests=6, kv_usage=0.5)


def test_load_is_read_from_a_metrics_page() -> None:
    assert read_load(PAGE) == Load(requests=6, kv_usage=0.5)


@pytest.mark.parametrize(
    "page",
    [b"", b"<html>", PAGE.replace(b"3.0", b"x"), PAGE.replace(b"3.0", b"NaN"), PAGE.replace(b" 3.0", b"")],
)
def test_a_page_without_usable_gauges_says_nothing(page: bytes) -> None:
    assert read_load(page) is None


async def test_work_that_others_gave_to_an_engine_counts(tmp_path: Path) -> None:
    busy, free = (
        FakeEngine("a", metrics=PAGE),
        FakeEngine("b", metrics=PAGE.replace(b"3.0", b"0").replace(b"2.0", b"0")),
    )
    async with bench(tmp_path, busy, free) as router:
        await until(lambda: router.router.fleet.engines["a"].reported.requests == 6)
        for _ in range(10):
            await router.complete()
    assert len(busy.seen) == 0


async def test_load_spreads_over_engines_while_requests_run(tmp_path: Path) -> None:
    engines = [FakeEngine(name, behaviour=hang) for name in "abcd"]
    async with bench(tmp_path, *engines) as router:
        requests = [asyncio.create_task(router.complete()) for _ in range(40)]
        await until(lambda: sum(len(engine.seen) for engine in engines) == 40)
        counts = [len(engine.seen) for engine in engines]
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await until(router.is_idle)
    assert max(counts) - min(counts) <= 6, counts


def test_a_lease_is_given_back_once() -> None:
    endpoint = wire.EngineEndpoint(
        name="a", host="h", port=1, role=wire.Role.BOTH, state=wire.EngineState.READY, start_id="1"
    )
    engine = Engine(endpoint)
    first = Lease(engine, 0.0, running=1, context=100, backlog=0.5)
    second = Lease(engine, 0.0, prefilling=1, backlog=0.25)
    view = engine.view(0.0)
    assert (view.running, view.context_tokens, view.prefill_backlog_seconds) == (1, 100, 0.75)
    first.prompt_done(0.5)
    first.prompt_done(0.5)
    assert engine.view(0.5).prefill_backlog_seconds == pytest.approx(0.25)
    first.release(0.5)
    first.release(0.5)
    second.release(0.75)
    assert (engine.running, engine.prefilling, engine.context_tokens, engine.backlog_seconds) == (0, 0, 0, 0.0)


def test_requests_of_other_routers_count_with_the_context_that_own_ones_have() -> None:
    endpoint = wire.EngineEndpoint(
        name="a", host="h", port=1, role=wire.Role.DECODE, state=wire.EngineState.READY, start_id="1"
    )
    engine = Engine(endpoint)

    def seen(others: int) -> tuple[int, int]:
        engine.reported = Reported(requests=others, kv_usage=0.0, own=0)
        engine.changed()
        view = engine.view(0.0)
        return view.running, view.context_tokens

    assert seen(3) == (3, 0), "nothing is known of them"
    leases = [Lease(engine, 0.0, running=1, context=context) for context in (100, 300)]
    assert seen(0) == (2, 400)
    assert seen(3) == (5, 1000)
    for lease in leases:
        lease.release(0.0)
    assert seen(3) == (3, 600), "as long as those that were there"


def test_the_work_of_a_busy_engine_is_seen_to_get_less() -> None:
    endpoint = wire.EngineEndpoint(
        name="a", host="h", port=1, role=wire.Role.PREFILL, state=wire.EngineState.READY, start_id="1"
    )
    engine = Engine(endpoint)
    lease = Lease(engine, 10.0, prefilling=1, backlog=2.0)
    assert engine.view(10.0).prefill_backlog_seconds == 2.0
    assert engine.view(11.5).prefill_backlog_seconds == 0.5
    assert engine.view(15.0).prefill_backlog_seconds == 0.0
    lease.release(15.0)
