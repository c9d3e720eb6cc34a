"""Spans of requests, from the client's through the router's parts to what engines are told, at a real collector."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.openmetrics.parser import text_fd_to_metric_families

from paceline.api import wire
from paceline.errors import ConfigError
from paceline.local.files import replace
from paceline.policy.routing.fleet import NominalModel
from paceline_worker.http.server import Request, Response
from paceline_worker.router.app import Router
from paceline_worker.router.settings import Settings, placement_settings
from paceline_worker.router.tracing.trace import NO_TRACE, NoTracer, open_tracer, read_tracing
from tests.worker.router.fakes import LONG, MODEL, FakeEngine, answer, bench, config, cut, hang

NOT_SAMPLED = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@dataclass
class Collector:
    """What arrives over OTLP."""

    spans: list[Any] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    admin_url: str = ""
    """Of the router whose spans they are."""

    async def take(self, request: web.Request) -> web.Response:
        message = ExportTraceServiceRequest()
        message.ParseFromString(await request.read())
        for group in message.resource_spans:
            self.resources.append({one.key: one.value.string_value for one in group.resource.attributes})
            self.spans += [span for scope in group.scope_spans for span in scope.spans]
        return web.Response()

    def named(self, name: str) -> Any:
        (found,) = [span for span in self.spans if span.name == name]
        return found


@asynccontextmanager
async def traced(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *engines: FakeEngine, **changes: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Collector]]:
    """A router with tracing on; when the block ends the collector has everything."""
    collector = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{runner.addresses[0][1]}")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    chosen, model = config(**changes), NominalModel()
    settings = Settings(
        host="127.0.0.1", port=0, admin_port=0, fleet_file=folder / "fleet.json", config=chosen, parent_fd=None,
        model=model, placement=placement_settings(chosen, model), tracing=True,
    )  # fmt: skip
    for engine in engines:
        await engine.start()
    fleet = wire.Fleet(version=1, engines=tuple(engine.endpoint for engine in engines))
    replace(folder / "fleet.json", wire.encode(fleet))
    router = Router(settings)
    await router.start()
    collector.admin_url = f"http://127.0.0.1:{router.admin_port}"
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{router.port}", timeout=30, trust_env=False) as client:
            yield client, collector
    finally:
        await router.close(grace_seconds=0)
        for engine in engines:
            await engine.stop()
        await runner.cleanup()


def attributes(span: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in span.attributes}


def parent_of(header: bytes) -> tuple[str, str]:
    _, trace, span, flags = header.decode().split("-")
    assert flags == "01"
    return trace, span


async def test_one_trace_goes_from_the_client_through_prefill_and_decode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, prefill = FakeEngine("decode"), FakeEngine("prefill", role=wire.Role.PREFILL)
    async with traced(tmp_path, monkeypatch, decode, prefill) as (client, collector):
        body = {"model": MODEL, "prompt": LONG}
        headers = {"traceparent": CLIENT, "tracestate": "vendor=1", "x-request-id": "r-1"}
        assert (await client.post("/v1/completions", json=body, headers=headers)).status_code == 200
    request, answer = collector.named("POST /v1/completions"), collector.named("answer")
    queue, asked = collector.named("queue"), collector.named("prefill")
    assert {span.trace_id.hex() for span in collector.spans} == {CLIENT.split("-")[1]}
    assert request.parent_span_id.hex() == CLIENT.split("-")[2]
    assert queue.parent_span_id == answer.parent_span_id == request.span_id
    assert asked.parent_span_id == answer.span_id
    assert attributes(answer) == {"paceline.engine": "decode"}
    assert attributes(asked) == {"paceline.engine": "prefill"}
    assert attributes(request)["paceline.outcome"] == "ok"
    assert attributes(request)["paceline.request_id"] == "r-1"
    assert parent_of(prefill.seen[0].headers[b"traceparent"]) == (asked.trace_id.hex(), asked.span_id.hex())
    assert parent_of(decode.seen[0].headers[b"traceparent"]) == (answer.trace_id.hex(), answer.span_id.hex())
    assert decode.seen[0].headers[b"tracestate"] == b"vendor=1"
    assert collector.resources[0]["service.name"] == "paceline-router"
    assert collector.resources[0]["paceline.deployment"] == "test"


async def test_latencies_point_to_the_trace_of_a_request_that_had_them_for_who_asks_for_openmetrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with traced(tmp_path, monkeypatch, FakeEngine("one")) as (client, collector):
        body = {"model": MODEL, "prompt": "x", "stream": True}
        await client.post("/v1/completions", json=body, headers={"traceparent": CLIENT})
        await client.post("/v1/completions", json=body, headers={"traceparent": NOT_SAMPLED})
        page = f"{collector.admin_url}/metrics"
        open_metrics = await client.get(page, headers={"accept": "application/openmetrics-text;version=1.0.0"})
        plain = await client.get(page)
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    found = {}
    for family in text_fd_to_metric_families(StringIO(open_metrics.text)):
        for sample in family.samples:
            if sample.exemplar is not None:
                found[family.name] = sample.exemplar.labels
    trace = {"trace_id": CLIENT.split("-")[1]}
    assert found == {
        "paceline_router_time_to_first_token_seconds": trace, "paceline_router_request_seconds": trace,
    }  # fmt: skip
    assert plain.headers["content-type"].startswith("text/plain")
    assert "trace_id" not in plain.text


async def test_spans_say_what_failed_and_where_it_was_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[FakeEngine] = []

    async def first_cut(engine: FakeEngine, request: Request, response: Response) -> None:
        asked.append(engine)
        await (cut if len(asked) == 1 else answer)(engine, request, response)

    both = [FakeEngine(name, behaviour=first_cut) for name in ("one", "other")]
    async with traced(tmp_path, monkeypatch, *both) as (client, collector):
        reply = await client.post("/v1/completions", json={"model": MODEL, "prompt": "short"})
        assert reply.status_code == 200
    answers = [span for span in collector.spans if span.name == "answer"]
    (failed,) = [span for span in answers if span.status.code == 2]
    (again,) = [span for span in answers if span.parent_span_id == failed.parent_span_id and span != failed]
    assert len({engine.name for engine in asked}) == 2
    assert [attributes(span)["paceline.engine"] for span in (failed, again)] == [engine.name for engine in asked]


async def test_a_second_engine_for_a_late_prompt_has_a_span_beside_that_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[FakeEngine] = []

    async def first_hangs(engine: FakeEngine, request: Request, response: Response) -> None:
        asked.append(engine)
        await (hang if len(asked) == 1 else answer)(engine, request, response)

    prefills = [FakeEngine(name, role=wire.Role.PREFILL, behaviour=first_hangs) for name in ("p1", "p2")]
    hedging = wire.Hedging(after_milliseconds=100, max_percent=50)
    async with traced(tmp_path, monkeypatch, FakeEngine("decode"), *prefills, hedging=hedging) as (client, collector):
        for prompt in ("short", "short", LONG):
            body, headers = {"model": MODEL, "prompt": prompt}, {"traceparent": CLIENT}
            reply = await client.post("/v1/completions", json=body, headers=headers)
            assert reply.status_code == 200
    spans = {attributes(span)["paceline.engine"]: span for span in collector.spans if span.name == "prefill"}
    assert spans.keys() == {"p1", "p2"}
    assert spans["p1"].parent_span_id == spans["p2"].parent_span_id
    for engine in asked:
        assert parent_of(engine.seen[0].headers[b"traceparent"])[1] == spans[engine.name].span_id.hex()


async def test_the_span_of_an_answer_names_the_engine_that_gave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[FakeEngine] = []

    async def third_hangs(engine: FakeEngine, request: Request, response: Response) -> None:
        asked.append(engine)
        await (hang if len(asked) == 3 else answer)(engine, request, response)

    both = [FakeEngine(name, role=wire.Role.BOTH, behaviour=third_hangs) for name in ("one", "other")]
    hedging = wire.Hedging(after_milliseconds=100, max_percent=50)
    async with traced(tmp_path, monkeypatch, *both, disaggregated=False, hedging=hedging) as (client, collector):
        for _ in range(3):
            reply = await client.post("/v1/completions", json={"model": MODEL, "prompt": "short", "max_tokens": 1})
            assert reply.status_code == 200
    last = [span for span in collector.spans if span.name == "answer"][-1]
    assert attributes(last) == {"paceline.engine": asked[3].name}
    assert asked[3] is not asked[2]


@pytest.mark.parametrize("header", [None, "garbage", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
async def test_a_request_without_a_good_parent_begins_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str | None
) -> None:
    async with traced(tmp_path, monkeypatch, FakeEngine("one")) as (client, collector):
        headers = {} if header is None else {"traceparent": header}
        await client.post("/v1/completions", json={"model": MODEL, "prompt": "x"}, headers=headers)
    assert collector.named("POST /v1/completions").parent_span_id == b""


async def test_a_collector_that_is_away_costs_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(tmp_path, monkeypatch, FakeEngine("one")) as (client, _):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        assert (await client.post("/v1/completions", json={"model": MODEL, "prompt": "x"})).status_code == 200


async def test_without_tracing_engines_get_the_clients_own_parent(tmp_path: Path) -> None:
    engine = FakeEngine("one")
    async with bench(tmp_path, engine) as router:
        body = {"model": MODEL, "prompt": "x"}
        await router.client.post("/v1/completions", json=body, headers={"traceparent": CLIENT})
    assert engine.seen[0].headers[b"traceparent"].decode() == CLIENT


async def test_without_tracing_a_part_is_its_work_and_nothing_else() -> None:
    async def work() -> int:
        return 3

    awaitable = work()
    assert NO_TRACE.during("queue", awaitable) is awaitable
    assert await awaitable == 3
    assert NO_TRACE.header() == b""
    assert isinstance(open_tracer("d", enabled=False), NoTracer)


def test_a_router_without_tracing_never_imports_opentelemetry() -> None:
    script = (
        "import sys; from paceline_worker.router import app, settings; "
        "from paceline_worker.router.tracing.trace import open_tracer; open_tracer('d', enabled=False); "
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_tracing_is_off_by_default_and_a_setting_that_is_neither_is_refused() -> None:
    assert read_tracing({}) is False
    assert read_tracing({"PACELINE_TRACING": "on"}) is True
    with pytest.raises(ConfigError, match="must be on or off"):
        read_tracing({"PACELINE_TRACING": "1"})


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.delitem(sys.modules, "paceline_worker.router.tracing.otel", raising=False)
    with pytest.raises(ConfigError, match="install paceline\\[tracing\\]"):
        open_tracer("d", enabled=True)
