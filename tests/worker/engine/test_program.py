"""The worker program from outside, over a fake vLLM: probes, crashes, drains, and no orphan in the end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from paceline.api import wire
from paceline.errors import EngineError, HardwareError
from tests.processes import gone, is_running
from tests.worker.engine.support import Program, Start
from tests.worker.http.certificates import authority


@asynccontextmanager
async def streaming(program: Program) -> AsyncIterator[None]:
    """With a stream in flight that has begun and does not end by itself."""
    async with (
        httpx.AsyncClient(timeout=30) as client,
        client.stream("POST", f"{program.api}/v1/completions", json={"stream": True}) as stream,
    ):
        assert await anext(stream.aiter_lines()) == "data: {}"
        yield


async def test_an_engine_is_ready_after_a_real_completion(start: Start):
    program = await start()
    await program.ready()
    async with httpx.AsyncClient() as client:
        state = (await client.get(f"{program.admin}/state")).json()
        metrics = (await client.get(f"{program.admin}/metrics")).text
        assert (await client.get(f"{program.admin}/healthz")).status_code == 200
    vllm, _ = program.descendants()
    assert state == {
        "state": "ready",
        "reason": "serving",
        "startId": state["startId"],
        "pid": vllm,
        "inFlight": 0,
        "heldBlocks": False,
    }
    assert len(state["startId"]) == 32
    assert "paceline_engine_ready 1.0" in metrics
    assert 'paceline_engine_state{state="ready"} 1.0' in metrics
    assert "paceline_engine_start_seconds" in metrics


async def test_the_emulator_is_an_engine_like_any_other(start: Start):
    program = await start(backend="emulator", max_model_len=2048)
    await program.ready()
    async with httpx.AsyncClient() as client:
        body = {"model": "model-8b", "prompt": "Hello", "max_tokens": 3}
        answer = (await client.post(f"{program.api}/v1/completions", json=body)).json()
        assert answer["usage"]["completion_tokens"] == 3
        assert (await client.get(f"{program.admin}/state")).json()["inFlight"] == 0
    program.process.send_signal(signal.SIGTERM)
    assert await program.process.wait() == 0


async def test_sigterm_waits_for_a_stream_in_flight_and_exits_0(start: Start):
    program = await start()
    await program.ready()
    async with (
        httpx.AsyncClient(timeout=30) as client,
        client.stream("POST", f"{program.api}/v1/completions", json={"stream": True}) as stream,
    ):
        lines = stream.aiter_lines()
        assert await anext(lines) == "data: {}"
        program.process.send_signal(signal.SIGTERM)
        _, body = await program.until(lambda status, _: status == 503)
        assert body["state"] == "draining"
        async with httpx.AsyncClient() as other:
            assert (await other.get(f"{program.admin}/state")).json()["inFlight"] == 1
        assert program.process.returncode is None
        await program.post("/release")
        assert [line async for line in lines if line] == ["data: [DONE]"]
    assert await program.process.wait() == 0
    await gone(program.descendants())


async def test_sigterm_waits_for_blocks_that_another_engine_still_fetches(start: Start):
    program = await start()
    await program.ready()
    await program.post("/hold")
    program.process.send_signal(signal.SIGTERM)
    await program.until(lambda _, body: body.get("state") == "draining")
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{program.admin}/state")).json()["inFlight"] == 0
    assert program.process.returncode is None
    await program.post("/fetch")
    assert await program.process.wait() == 0


async def test_a_second_signal_stops_at_once(start: Start):
    program = await start()
    await program.ready()
    async with streaming(program):
        program.process.send_signal(signal.SIGTERM)
        await program.until(lambda _, body: body.get("state") == "draining")
        program.process.send_signal(signal.SIGTERM)
        assert await program.process.wait() == 0
    await gone(program.descendants())


async def test_sigterm_while_starting_ends_the_start(start: Start):
    program = await start("sick")
    await program.until(lambda _, body: body.get("state") == "starting" and program.pids_file.exists())
    program.process.send_signal(signal.SIGTERM)
    assert await program.process.wait() == 0


async def test_a_child_that_ignores_sigterm_is_killed(start: Start):
    program = await start("stubborn", drain_seconds=0)
    await program.ready()
    pids = program.descendants()
    program.process.send_signal(signal.SIGTERM)
    await program.until(lambda status, _: status != 200)
    program.process.send_signal(signal.SIGTERM)
    assert await program.process.wait() == 0
    await gone(pids)


async def test_a_crashed_engine_is_unready_at_once_and_the_worker_fails(start: Start):
    program = await start()
    await program.ready()
    pids = program.descendants()
    await program.post("/die")
    status, _ = await program.state()
    assert status != 200
    assert await program.process.wait() == 4
    output = await program.output()
    assert "error: vLLM ended with exit status 1 while it was serving: ValueError: the fake was told to die" in output
    assert "Traceback" not in output
    await gone(pids)


async def test_an_engine_that_lost_its_core_is_unready_at_once_even_if_its_server_lives_on(start: Start):
    program = await start()
    await program.ready()
    server, core = program.descendants()
    os.kill(core, signal.SIGKILL)
    _, body = await program.until(lambda status, _: status == 503)
    assert body == {"state": "failed", "reason": "vLLM lost its process VLLM::EngineCore"}
    assert is_running(server)
    os.kill(server, signal.SIGTERM)
    assert await program.process.wait() == 4
    assert (
        "error: vLLM ended with the loss of its process VLLM::EngineCore while it was serving" in await program.output()
    )


async def test_an_engine_that_crashes_while_it_starts_says_why_in_one_line(start: Start):
    program = await start("crash")
    assert await program.process.wait() == 4
    last = (await program.output()).splitlines()[-1]
    assert last == "error: vLLM ended with exit status 1 before it was ready: ValueError: the checkpoint is empty"


async def test_an_engine_that_never_becomes_healthy_meets_its_deadline(start: Start):
    program = await start("sick", start_deadline_seconds=1)
    assert await program.process.wait() == 4
    assert "error: The engine is not ready after 1 s (startDeadlineSeconds): still starting." in await program.output()


async def test_an_engine_that_can_not_complete_a_prompt_is_never_ready(start: Start):
    program = await start("broken")
    assert await program.process.wait() == 4
    assert 'The warm-up request was answered 500: {"error":{"message":"no tokens today"}}' in await program.output()


async def test_a_taken_port_is_told_before_anything_is_started(start: Start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = await start(ports=wire.EnginePorts(api=port))
        assert await program.process.wait() == 4
    assert f"error: Port {port} (ports.api) is taken" in await program.output()
    assert not program.pids_file.exists()


async def test_a_taken_admin_port_is_told(start: Start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = await start(ports=wire.EnginePorts(admin=port))
        assert await program.process.wait() == 4
    assert f"127.0.0.1:{port} (ports.admin)" in await program.output()


async def test_a_missing_model_folder_is_told(start: Start):
    source = wire.ModelSource(kind=wire.SourceKind.LOCAL, reference="/no/such/model")
    program = await start(source=source)
    assert await program.process.wait() == 4
    assert "error: The model folder /no/such/model does not exist" in await program.output()


async def test_too_few_accelerators_are_told(start: Start):
    program = await start(
        parallelism=wire.Parallelism(tensor=4), accelerators=wire.Accelerators(count=2), kv_events=False
    )
    assert await program.process.wait() == 3
    assert "engine.parallelism: needs 4 accelerators in a pod" in await program.output()


async def test_drain_takes_the_engine_out_of_service_and_lets_it_run(start: Start):
    program = await start()
    await program.ready()
    async with httpx.AsyncClient() as client:
        assert (await client.post(f"{program.admin}/drain")).status_code == 202
        assert (await client.get(f"{program.admin}/readyz")).status_code == 503
        assert (await client.get(f"{program.api}/health")).status_code == 200
    program.process.send_signal(signal.SIGTERM)
    assert await program.process.wait() == 0


async def test_no_orphan_is_left_when_the_one_who_started_it_is_killed(start: Start):
    reading, writing = os.pipe()
    program = await start(pass_fds=(reading,))
    os.close(reading)
    await program.ready()
    pids = program.descendants()
    assert all(is_running(pid) for pid in pids)
    os.close(writing)  # what the kernel does for a process that is killed
    assert await program.process.wait() == 1
    await gone(pids)


async def test_no_orphan_is_left_when_the_worker_itself_is_killed(start: Start):
    program = await start()
    await program.ready()
    vllm, _ = program.descendants()
    program.process.kill()
    await program.process.wait()
    await gone([vllm])


async def test_a_missing_variable_is_one_line_without_a_traceback():
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "paceline_worker.engine",
        env={"PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=Path(__file__).parent,
    )
    output, _ = await process.communicate()
    assert process.returncode == 2
    assert output.decode() == (
        "error: The environment variable PACELINE_ENGINE_CONFIG is not set; an engine worker needs it.\n"
    )


async def test_no_log_of_it_holds_prompts_or_answers(start: Start):
    program = await start(backend="emulator", max_model_len=2048)
    await program.ready()
    secret = "canary-5b1d"
    async with httpx.AsyncClient(timeout=30) as client:
        body = {"model": "model-8b", "prompt": secret, "max_tokens": 12}
        said = (await client.post(f"{program.api}/v1/completions", json=body)).json()["choices"][0]["text"]
        for wrong in ({"max_tokens": secret}, {"model": secret}, {"prompt": {secret: secret}}, {"stream": secret}):
            assert (await client.post(f"{program.api}/v1/completions", json=body | wrong)).status_code >= 400
    program.process.terminate()
    await program.process.wait()
    written = await program.output()
    assert "Ready after" in written, "the log was looked at"
    assert secret not in written
    assert said not in written


async def test_an_engine_behind_tls_is_ready_by_its_own_certificate_and_served_to_who_has_one(
    start: Start, tmp_path: Path
):
    signer = authority(tmp_path / "authority")
    own = signer.sign(tmp_path / "own", "chat-engines.prod.svc")
    tls = wire.EngineTls(folder=str(own), server_name="chat-engines.prod.svc", client_certificates=True)
    program = await start(backend="emulator", max_model_len=2048, tls=tls)
    await program.ready()
    url = program.api.replace("http:", "https:") + "/v1/models"
    context = ssl.create_default_context(cafile=str(own / "ca.crt"))
    async with httpx.AsyncClient(verify=context) as client:
        with pytest.raises(httpx.TransportError):
            await client.get(url)
    context.load_cert_chain(own / "tls.crt", own / "tls.key")
    async with httpx.AsyncClient(verify=context) as client:
        assert (await client.get(url)).status_code == 200
    program.process.send_signal(signal.SIGTERM)
    assert await program.process.wait() == 0


async def test_a_fault_of_the_gpu_makes_it_unready_at_once_and_ends_it_with_a_status_of_its_own(start: Start):
    program = await start()
    await program.ready()
    await program.post("/ecc")
    _, body = await program.until(lambda status, _: status == 503)
    assert body == {"state": "failed", "reason": "vLLM reports a fault of the accelerator"}
    assert await program.process.wait() == HardwareError.exit_code == 7
    word = program.last_word.read_text()
    assert word.endswith("torch.AcceleratorError: CUDA error: uncorrectable ECC error encountered")
    assert f"error: {word}" in await program.output()
    await gone(program.descendants())


async def test_an_engine_that_does_no_step_is_unready_and_is_given_up_in_the_end(start: Start):
    program = await start(stall_seconds=4)  # unready for twice as long: a busy machine has time to see it
    await program.ready()
    async with streaming(program):
        _, body = await program.until(lambda status, _: status == 503)
        assert body["state"] == "ready"
        assert "does no step" in body["reason"]
        assert await program.process.wait() == EngineError.exit_code
    assert "it is given up" in program.last_word.read_text()


async def test_a_drain_does_not_wait_for_an_engine_that_does_no_step(start: Start):
    program = await start(stall_seconds=1, drain_seconds=300)
    await program.ready()
    async with streaming(program):
        program.process.send_signal(signal.SIGTERM)
        assert await program.process.wait() == 0
    assert "It has done no step for 1 s; what it has is cut off." in await program.output()
