"""``paceline up`` as a whole, on real emulators, workers and router: load, report, kills and interruptions."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest

from paceline.api.v1alpha1 import load
from paceline.api.wire import Role
from paceline.clock import WallClock
from paceline.local.cluster import LocalCluster
from paceline.local.guard import Guard
from paceline.local.kubelet import PodPhase
from paceline.local.load import LoadClient, LoadOptions
from paceline.local.monitor import Monitor
from paceline.local.plan import ClusterOptions, make_plan
from paceline.local.ports import PortAllocator
from paceline.local.probe import PodClient
from paceline.traces.prompts import PromptMaker
from paceline.traces.record import TraceRequest
from tests.waiting import until

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "manifests" / "samples" / "quickstart.yaml"
MARK = "UP_TEST_MARK"


def command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


class Up:
    """A running ``paceline up``, and all processes that descend from it, found by a mark in their environment."""

    def __init__(self, *arguments: str) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from paceline.cli import main; main()", "up", *arguments],
            env={**os.environ, MARK: self.mark, "COLUMNS": "200"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        )  # fmt: skip

    def family(self) -> list[int]:
        """Processes with the mark that run, this one's own included."""
        needle = f"{MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if needle in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def read_until(self, text: str) -> str:
        assert self.process.stdout is not None
        seen = ""
        for line in self.process.stdout:
            seen += line
            if text in line:
                return seen
        raise AssertionError(f"{text!r} was not printed:\n{seen}")

    def rest(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


async def test_a_load_is_sent_and_reported_and_nothing_is_left(tmp_path: Path) -> None:
    report, plot = tmp_path / "out" / "report.json", tmp_path / "out" / "slo.png"
    arguments = [
        str(QUICKSTART), "--port", "0", "--load", "conversation", "--load-minutes", "0.5", "--rate-scale", "0.5",
        "--speed", "10", "--once", "--report", str(report), "--plot", str(plot), "--run-dir", str(tmp_path / "run"),
    ]  # fmt: skip
    with closing(Up(*arguments)) as up:
        out = await asyncio.to_thread(up.rest)
        assert up.process.wait(30) == 0, out
        await until(lambda: up.family() == [])
    document = json.loads(report.read_text())
    assert document["failed"] == 0
    assert document["completed"] == document["offered"] > 20
    assert document["restarts"] == 0
    assert document["ttft"]["p50"] > 0
    assert document["engines"] == "2 prefill + 2 decode engines (emulated qwen3-32b-h200-tp2)"
    assert plot.read_bytes().startswith(b"\x89PNG")
    for expected in ("curl http://127.0.0.1:", "SLO report", "attainment", "goodput", "Wrote the plot"):
        assert expected in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_it_cleanly_with_a_report_of_what_was_sent(tmp_path: Path, number: int, code: int) -> None:
    arguments = [str(QUICKSTART), "--port", "0", "--load", "conversation", "--run-dir", str(tmp_path / "run")]
    with closing(Up(*arguments)) as up:
        await asyncio.to_thread(up.read_until, " sent, ")
        up.process.send_signal(number)
        out = await asyncio.to_thread(up.rest)
        assert up.process.wait(60) == code
        assert "SLO report" in out
        assert "broken off with the load" in out
        assert "Traceback" not in out
        await until(lambda: up.family() == [])


async def test_it_says_which_engine_has_ended_and_how(tmp_path: Path) -> None:
    with closing(Up(str(QUICKSTART), "--port", "0", "--run-dir", str(tmp_path / "run"))) as up:
        await asyncio.to_thread(up.read_until, "running 0")
        emulator = next(pid for pid in up.family() if "paceline_worker.emulator" in command(pid))
        os.kill(emulator, signal.SIGKILL)
        told = await asyncio.to_thread(up.read_until, "is started again")
        assert "quickstart-flexible-" in told
        assert "ended with exit code 4 (the emulator ended with SIGKILL while it was serving" in told
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(60) == 130


async def test_nothing_is_left_when_it_is_killed(tmp_path: Path) -> None:
    with closing(Up(str(QUICKSTART), "--port", "0", "--run-dir", str(tmp_path / "run"))) as up:
        await asyncio.to_thread(up.read_until, "Up in ")
        # 4 workers, 4 emulators, the router, the guardian and itself.
        assert len(up.family()) == 11
        up.process.send_signal(signal.SIGKILL)
        up.process.wait()
        await until(lambda: up.family() == [])


async def test_nothing_is_left_when_the_guardian_is_killed_with_it(tmp_path: Path) -> None:
    with closing(Up(str(QUICKSTART), "--port", "0", "--run-dir", str(tmp_path / "run"))) as up:
        await asyncio.to_thread(up.read_until, "Up in ")
        guardians = [pid for pid in up.family() if "paceline.local.guardian" in command(pid)]
        assert len(guardians) == 1
        for pid in (guardians[0], up.process.pid):
            os.kill(pid, signal.SIGKILL)
        up.process.wait()
        await until(lambda: up.family() == [])


class Running:
    """A cluster of two prefill and two decode engines, and a client for it."""

    def __init__(self, cluster: LocalCluster, monitor: Monitor, client: LoadClient) -> None:
        self.cluster = cluster
        self.monitor = monitor
        self.client = client

    def roles(self) -> list[Role | None]:
        return sorted(v.role for v in self.cluster.engines if v.status.phase is PodPhase.READY)  # type: ignore[type-var]

    def answered(self) -> int:
        return sum(1 for result in self.client.result.requests if result.ended)


@asynccontextmanager
async def running(folder: Path, speed: float = 10.0) -> AsyncIterator[Running]:
    md = load(QUICKSTART.read_bytes(), "quickstart")
    with Guard() as guard:
        async with aiohttp.ClientSession() as session:
            plan = make_plan(
                md, ClusterOptions(speed=speed, port=0), ports=PortAllocator("127.0.0.1", random.Random()),
                fleet_path=folder / "fleet.json", environment=os.environ,
            )  # fmt: skip
            pods, clock = PodClient(session), WallClock()
            cluster = LocalCluster(
                plan, log_dir=folder / "logs", probe=pods.ready, idle=pods.idle, guard=guard, clock=clock
            )
            options = LoadOptions(cluster.url, "qwen3-32b", speed=speed)
            client = LoadClient(options, session=session, prompts=PromptMaker(), clock=clock)
            try:
                cluster.start()
                await cluster.wait_ready(lambda: None)
                yield Running(cluster, Monitor(cluster, pods, clock), client)
            finally:
                await cluster.stop()


def steady(requests: int) -> list[TraceRequest]:
    """One request every half second of the engines' time, each of 2,000 to 4,000 tokens that no other has."""
    return [TraceRequest(n * 0.5, 2000 + 37 * n % 2000, 60) for n in range(requests)]


async def test_a_prefill_engine_that_is_killed_under_load_loses_no_request_and_is_replaced(tmp_path: Path) -> None:
    async with running(tmp_path) as up:
        sending = asyncio.create_task(up.client.run(steady(120)))
        await until(lambda: up.answered() >= 20 or sending.done())
        victim = next(view.status for view in up.cluster.engines if view.role is Role.PREFILL)
        assert victim.pid is not None
        os.killpg(victim.pid, signal.SIGKILL)
        result = await sending
        assert [found.error for found in result.requests if found.error] == []
        await until(lambda: up.roles() == [Role.DECODE, Role.DECODE, Role.PREFILL, Role.PREFILL])
        assert victim.starts == 2


async def test_prompts_are_computed_by_prefill_engines_and_tokens_by_decode_engines(tmp_path: Path) -> None:
    async with running(tmp_path) as up:

        async def generated() -> Counter[Role | None]:
            sample = await up.monitor.sample()
            tokens: Counter[Role | None] = Counter()
            for engine in sample.engines:
                assert engine.metrics is not None
                tokens[engine.role] += int(engine.metrics.generation_tokens)
            return tokens

        warm_up = await generated()
        result = await up.client.run(steady(40))
        assert [found.error for found in result.requests if found.error] == []
        grown = await generated()
        grown.subtract(warm_up)
        # A prefill engine makes the first token only.
        assert grown[Role.PREFILL] <= 40
        assert grown[Role.DECODE] >= 40 * 59
