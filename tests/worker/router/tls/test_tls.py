"""TLS from clients to the router and from the router to engines, with real certificates."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from paceline.api import wire
from paceline.errors import ConfigError
from paceline_worker.http.server import Limits, Server, serve
from paceline_worker.http.tls import client_files, server_files
from tests.waiting import until
from tests.worker.http.certificates import Authority, authority
from tests.worker.http.raw import echo
from tests.worker.router.fakes import DONE, MODEL, Bench, FakeEngine, bench, event, stream_then_hang

ENGINES = "chat-engines.prod.svc"
ROUTER = "router.example.com"


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("trusted") / "one")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("other") / "other")


def client(router: Bench, trusted: Authority, pair: Path | None = None) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=str(trusted.folder / "ca.crt"))
    if pair is not None:
        context.load_cert_chain(pair / "tls.crt", pair / "tls.key")
    return httpx.AsyncClient(verify=context, timeout=10, base_url=f"https://127.0.0.1:{router.router.port}")


BODY = {"model": MODEL, "prompt": "hello"}


# --- clients to the router


@asynccontextmanager
async def secured(tmp_path: Path, trusted: Authority, *engines: FakeEngine, **tls: Any) -> AsyncIterator[Bench]:
    own = trusted.sign(tmp_path / "own", ROUTER)
    async with bench(tmp_path, *engines, tls=wire.RouterTls(folder=str(own), **tls)) as router:
        yield router


async def test_the_openai_client_speaks_to_a_router_with_a_certificate(tmp_path: Path, trusted: Authority) -> None:
    async with (
        secured(tmp_path, trusted, FakeEngine("a")) as router,
        client(router, trusted) as http,
        openai.AsyncOpenAI(base_url=f"{http.base_url}/v1", api_key="x", http_client=http) as ai,
    ):
        stream = await ai.completions.create(model=MODEL, prompt="hello", stream=True)
        said = "".join([piece.choices[0].text async for piece in stream])
    assert said == "a:0 a:1 a:2 a:3 a:4 "


async def test_a_client_that_trusts_another_authority_goes_away(
    tmp_path: Path, trusted: Authority, other: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured(tmp_path, trusted, FakeEngine("a")) as router:
        async with client(router, other) as http:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                await http.post("/v1/completions", json=BODY)
        async with client(router, trusted) as http:
            assert (await http.post("/v1/completions", json=BODY)).status_code == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_only_clients_with_a_certificate_of_the_authority_are_served_where_one_is_named(
    tmp_path: Path, trusted: Authority, other: Authority
) -> None:
    engine = FakeEngine("a")
    good, bad = trusted.sign(tmp_path / "good", "client"), other.sign(tmp_path / "bad", "client")
    async with secured(tmp_path, trusted, engine, client_ca_folder=str(trusted.folder)) as router:
        for pair in (None, bad):
            async with client(router, trusted, pair) as http:
                with pytest.raises(httpx.TransportError):
                    await http.post("/v1/completions", json=BODY)
        assert engine.seen == []
        async with client(router, trusted, good) as http:
            assert (await http.post("/v1/completions", json=BODY)).status_code == 200


async def test_plain_http_on_the_port_is_closed_without_an_answer_and_without_noise(
    tmp_path: Path, trusted: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    async with secured(tmp_path, trusted, FakeEngine("a")) as router:
        with pytest.raises(httpx.TransportError):
            await router.complete()
        async with client(router, trusted) as http:
            assert (await http.post("/v1/completions", json=BODY)).status_code == 200
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_refused_request_is_told_so_over_tls_too(tmp_path: Path, trusted: Authority) -> None:
    async with secured(tmp_path, trusted, FakeEngine("a")) as router, client(router, trusted) as http:
        reply = await http.post("/v1/completions", content=b"x" * (33 << 20))
    assert reply.status_code == 413


async def test_a_new_certificate_is_taken_into_use_and_streams_go_on(
    tmp_path: Path, trusted: Authority, other: Authority
) -> None:
    engine = FakeEngine("a", behaviour=stream_then_hang)
    streamed = BODY | {"stream": True}
    async with secured(tmp_path, trusted, engine) as router:
        async with (
            client(router, trusted) as http,
            http.stream("POST", "/v1/completions", json=streamed) as answer,
        ):
            pieces = answer.aiter_bytes()
            assert b"begun" in await anext(pieces)
            other.sign(tmp_path / "own", ROUTER)
            async with asyncio.timeout(20):
                while await router.metric("certificate_changes", outcome="taken") == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            engine.behaviour = finish
            async with client(router, other) as late:
                assert (await late.post("/v1/completions", json=streamed)).status_code == 200
            async with client(router, trusted) as late:
                with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                    await late.post("/v1/completions", json=BODY)
            assert router.router.pool.connections > 0
            assert not engine.abandoned.is_set(), "the stream is there still"
        await until(engine.abandoned.is_set)


async def finish(engine: FakeEngine, request: Any, response: Any) -> None:
    response.start(200, ((b"content-type", b"text/event-stream"),))
    response.write(event("all") + DONE)
    response.end()


async def test_a_certificate_that_can_not_be_used_leaves_the_last_one_in_force(
    tmp_path: Path, trusted: Authority
) -> None:
    async with secured(tmp_path, trusted, FakeEngine("a")) as router:
        (tmp_path / "own" / "tls.crt").write_text("no certificate")
        async with asyncio.timeout(20):
            while await router.metric("certificate_changes", outcome="refused") == 0:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        async with client(router, trusted) as http:
            assert (await http.post("/v1/completions", json=BODY)).status_code == 200


def test_a_router_without_its_certificate_says_which_files_it_wants(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tls\.crt"):
        server_files(tmp_path / "tls.crt", tmp_path / "tls.key", None)


# --- the router to engines


class SecureEngine(FakeEngine):
    """A fake engine over HTTPS."""

    certificates: Path
    client_ca: Path | None = None

    async def start(self) -> None:
        files = server_files(self.certificates / "tls.crt", self.certificates / "tls.key", self.client_ca)
        self.server = await serve(self._handle, "127.0.0.1", self.port, limits=Limits(), tls=files.get())
        self.port = self.server.port

    @property
    def endpoint(self) -> wire.EngineEndpoint:
        plain = super().endpoint
        return wire.EngineEndpoint(
            name=plain.name, host=plain.host, port=plain.port, role=plain.role, state=plain.state,
            start_id=plain.start_id, revision=plain.revision, tls=True,
        )  # fmt: skip


def engine(name: str, certificates: Path, client_ca: Path | None = None) -> SecureEngine:
    made = SecureEngine(name)
    made.certificates, made.client_ca = certificates, client_ca
    return made


def to_engines(ca: Path, own: Path | None = None, name: str = ENGINES) -> wire.RouterToEngineTls:
    return wire.RouterToEngineTls(ca_folder=str(ca), server_name=name, client_folder=None if own is None else str(own))


async def test_engines_are_asked_over_https_beside_plain_ones(tmp_path: Path, trusted: Authority) -> None:
    secure = engine("secure", trusted.sign(tmp_path / "engine", ENGINES))
    plain = FakeEngine("plain")
    async with bench(tmp_path, secure, plain, engine_tls=to_engines(trusted.folder)) as router:
        said = {(await router.complete()).json()["choices"][0]["text"] for _ in range(20)}
    assert said == {"from secure", "from plain"}, "as in a roll-out"


@pytest.mark.parametrize("wrong", ["authority", "name", "no settings"])
async def test_an_engine_that_can_not_show_who_it_is_gets_no_request(
    tmp_path: Path, trusted: Authority, other: Authority, wrong: str
) -> None:
    signer = other if wrong == "authority" else trusted
    impostor = engine("impostor", signer.sign(tmp_path / "engine", "somebody" if wrong == "name" else ENGINES))
    tls = None if wrong == "no settings" else to_engines(trusted.folder)
    async with bench(tmp_path, impostor, FakeEngine("honest"), engine_tls=tls) as router:
        said = {(await router.complete()).json()["choices"][0]["text"] for _ in range(10)}
    assert said == {"from honest"}
    assert impostor.seen == []


async def test_engines_take_requests_only_from_who_has_a_certificate(tmp_path: Path, trusted: Authority) -> None:
    secure = engine("secure", trusted.sign(tmp_path / "engine", ENGINES), trusted.folder / "ca.crt")
    own = trusted.sign(tmp_path / "router", "router")
    async with bench(tmp_path, secure, engine_tls=to_engines(trusted.folder, own)) as router:
        assert (await router.complete()).status_code == 200
    queue = wire.Admission(max_queue_seconds=1)
    async with bench(tmp_path, secure, engine_tls=to_engines(trusted.folder), admission=queue) as router:
        assert (await router.complete()).status_code in (502, 503)
    assert len(secure.seen) == 1


async def test_a_renewed_authority_is_taken_for_new_connections(
    tmp_path: Path, trusted: Authority, other: Authority
) -> None:
    folder = tmp_path / "authority"
    folder.mkdir()
    (folder / "ca.crt").write_bytes((trusted.folder / "ca.crt").read_bytes())
    contexts = client_files(folder / "ca.crt", None)
    first = contexts.get()
    assert contexts.get() is first
    (folder / "ca.crt").write_bytes((other.folder / "ca.crt").read_bytes() + b"\n")
    assert contexts.get() is not first
    (folder / "ca.crt").write_text("nothing")
    second = contexts.get()
    assert (contexts.changes, contexts.refused) == (1, 1)
    assert second is contexts.get()


async def test_the_server_closes_well_with_clients_on_old_and_new_certificates(
    tmp_path: Path, trusted: Authority, other: Authority
) -> None:
    own = trusted.sign(tmp_path / "own", ROUTER)
    files = server_files(own / "tls.crt", own / "tls.key", None)
    server: Server = await serve(echo, "127.0.0.1", 0, limits=Limits(), tls=files.get())
    other.sign(own, ROUTER)
    await server.use(files.get())
    context = ssl.create_default_context(cafile=str(other.folder / "ca.crt"))
    async with httpx.AsyncClient(verify=context) as http:
        assert (await http.get(f"https://127.0.0.1:{server.port}/x")).text == "/x"
        await server.close()
    assert server.connections == 0
