"""The emulator as a process: what it says of itself, how it starts, fails and ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.contract.emulated import emulator, wait_until_healthy
from tests.contract.engines import Engine, client, complete, idle, metric, stream
from tests.processes import free_ports

COMMAND = (sys.executable, "-m", "paceline_worker.emulator", "--host", "127.0.0.1")
BODY = {"model": "emulated", "prompt": "hello", "max_tokens": 5, "ignore_eos": True}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with emulator(tmp_path_factory.mktemp("emulator") / "log", "--enable-faults", "--speed", "10") as engine:
        yield engine


@pytest.fixture
def engine(faulty: Engine) -> Iterator[Engine]:
    """An engine that behaves when the test begins and after it ended."""
    yield faulty
    httpx.post(f"{faulty.url}/emulator/faults", json={}, trust_env=False).raise_for_status()


async def fault(engine: Engine, **settings: object) -> None:
    await complete(engine, settings, "/emulator/faults")


def finished(*flags: str) -> subprocess.CompletedProcess[str]:
    """An emulator that is expected to end by itself."""
    return subprocess.run([*COMMAND, *flags], check=False, capture_output=True, text=True, timeout=30)


async def test_it_says_that_it_is_an_emulator(engine: Engine) -> None:
    async with client(engine) as http:
        version = (await http.get("/version")).json()
    assert version["emulator"] is True
    assert "emulator" in version["version"]
    assert (version["profile"], version["speed"], version["estimate"]) == ("tiny-cpu", 10, True)


def test_it_says_so_in_its_log_too(tmp_path: Path) -> None:
    with emulator(tmp_path / "log"):
        pass
    assert "This is an EMULATOR, not vLLM" in (tmp_path / "log").read_text()


def test_it_ends_well_at_a_signal_even_with_a_stream_under_way(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    url, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([*COMMAND, "--port", str(port)], stdout=output, stderr=output)
    try:
        wait_until_healthy(url, process, log)
        body = {"prompt": "hello", "max_tokens": 100_000, "ignore_eos": True, "stream": True}
        with httpx.Client(trust_env=False) as http, http.stream("POST", f"{url}/v1/completions", json=body) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--profile", "none-such"), "engine profile 'none-such' is not known"),
        (("--speed", "-1"), "--speed is -1.0"),
        (("--kv-events-config", "{"), "--kv-events-config is not valid"),
    ],
)
def test_a_bad_flag_ends_it_with_a_clear_message(flags: tuple[str, ...], message: str) -> None:
    ended = finished(*flags)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_ends_it_with_a_clear_message(engine: Engine) -> None:
    port = engine.url.rpartition(":")[2]
    ended = finished("--port", port)
    assert ended.returncode == 4
    assert f"can't listen on 127.0.0.1:{port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_loads_nothing_heavy() -> None:
    code = "import sys, paceline_worker.emulator.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"pydantic", "matplotlib", "numpy", "kopf", "aiohttp", "prometheus_client"} & set(loaded)


async def test_embeddings_follow_from_the_text_and_have_unit_length(engine: Engine) -> None:
    body = {"model": "emulated", "input": ["one", "two", "one"], "dimensions": 8}
    vectors = [entry["embedding"] for entry in (await complete(engine, body, "/v1/embeddings"))["data"]]
    assert vectors[0] == vectors[2] != vectors[1]
    assert sum(x * x for x in vectors[0]) == pytest.approx(1)


async def test_it_lists_where_its_cache_events_come_from(engine: Engine) -> None:
    async with client(engine) as http:
        sources = (await http.get("/kv_event_sources")).json()
    assert sources["0"]["endpoint"] == engine.kv_events
    assert sources["0"]["replay_endpoint"] == engine.kv_replay


async def test_a_wrong_method_or_media_type_is_refused(engine: Engine) -> None:
    async with client(engine) as http:
        assert (await http.get("/v1/completions")).status_code == 405
        answer = await http.post("/v1/completions", content=json.dumps(BODY))
    assert answer.status_code == 400
    assert "application/json" in answer.json()["error"]["message"]


async def test_chats_end_by_themselves(engine: Engine) -> None:
    body = {"model": "emulated", "messages": [{"role": "user", "content": "hello"}]}
    choice = (await complete(engine, body, "/v1/chat/completions"))["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"].isascii()


async def test_a_stream_of_garbage_is_no_events(engine: Engine) -> None:
    await fault(engine, garbage=True)
    with pytest.raises(ValueError, match="utf-8"):
        await stream(engine, BODY)


async def test_new_requests_can_be_refused(engine: Engine) -> None:
    await fault(engine, refuseStatus=503)
    async with client(engine) as http:
        answer = await http.post("/v1/completions", json=BODY)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == 503


@pytest.mark.parametrize("settings", [{"slow": 0}, {"refuseStatus": 200}, {"typo": 1}, {"freeze": "x"}], ids=str)
async def test_faults_that_make_no_sense_are_refused(engine: Engine, settings: dict[str, object]) -> None:
    async with client(engine) as http:
        assert (await http.post("/emulator/faults", json=settings)).status_code == 400


async def test_without_the_flag_there_are_no_faults(tmp_path: Path) -> None:
    with emulator(tmp_path / "log") as sound:
        async with client(sound) as http:
            assert (await http.post("/emulator/faults", json={})).status_code == 404


def test_it_dies_after_as_many_tokens_as_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    url, log = f"http://127.0.0.1:{port}", tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([*COMMAND, "--port", str(port), "--enable-faults"], stdout=output, stderr=output)
    try:
        wait_until_healthy(url, process, log)
        with httpx.Client(trust_env=False) as http:
            http.post(f"{url}/emulator/faults", json={"dieAfterTokens": 3}).raise_for_status()
            with pytest.raises(httpx.TransportError):
                http.post(f"{url}/v1/completions", json={"prompt": "hello", "max_tokens": 50, "ignore_eos": True})
        assert process.wait(timeout=10) == 86
    finally:
        process.kill()
        process.wait()


async def test_a_client_that_leaves_a_whole_answer_frees_the_engine(engine: Engine) -> None:
    before = await metric(engine, "vllm:request_success_total", finished_reason="abort")
    async with client(engine) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.post("/v1/completions", json=BODY | {"max_tokens": 100_000}, timeout=0.2)
    await idle(engine)
    assert await metric(engine, "vllm:request_success_total", finished_reason="abort") == before + 1
