"""Real engines through the worker program, and the router over them: what the fixtures of this suite start and stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx

from paceline.api import wire
from paceline.local.files import replace
from tests.contract.engines import FAILED, REMOTE_DECODE, TRANSFERRED, Engine
from tests.processes import free_ports
from tests.series import total

MODEL: Final = "tiny"
BLOCK_SIZE: Final = 32
"""vLLM's attention on CPU wants a multiple of 32."""
MAX_MODEL_LEN: Final = 4096
START_SECONDS: Final = 400
STOP_SECONDS: Final = 90
LAST_LINES: Final = 40
MEETINGS: Final = 5
COUNTED_SECONDS: Final = 30
"""vLLM counts a step some time after it has answered the requests of it."""
# float32: tokens are compared one by one, and a sum taken in another order must not tip the choice between two of them.
ARGUMENTS: Final = ("--enforce-eager", "--dtype", "float32", "--max-num-seqs", "32")


def processes_of(group: int) -> dict[int, str]:
    """Id -> name of every process in a process group."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "stat").read_text()
            name = (entry / "cmdline").read_text().partition("\0")[0]
        except OSError:
            continue
        if int(text[text.rindex(")") + 2 :].split()[2]) == group:
            found[int(entry.name)] = name
    return found


@dataclass
class EngineProcess:
    """One engine: the worker program with real vLLM below it."""

    name: str
    model: Path
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    config: wire.EngineConfig | None = None
    starts: int = field(default=0)
    tie: int | None = None
    """Write end of the pipe whose end tells the worker that this process is gone."""

    @property
    def running(self) -> bool:
        """Whether its worker lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def ports(self) -> wire.EnginePorts:
        """Of the start that is running."""
        assert self.config is not None
        return self.config.ports

    @property
    def api(self) -> str:
        """Base URL of vLLM's API."""
        return f"http://127.0.0.1:{self.ports.api}"

    @property
    def admin(self) -> str:
        """Base URL of the worker's own server."""
        return f"http://127.0.0.1:{self.ports.admin}"

    @property
    def pid(self) -> int:
        """Of the worker, which leads its process group."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Start it on free ports; :meth:`wait_ready` says when it serves."""
        api, admin, side, events, replay = free_ports(5)
        self.config = wire.EngineConfig(
            deployment="tiny",
            namespace="test",
            model=MODEL,
            served_names=(MODEL,),
            source=wire.ModelSource(kind=wire.SourceKind.LOCAL, reference=str(self.model)),
            max_model_len=MAX_MODEL_LEN,
            kv_cache=wire.KvCache(block_size=BLOCK_SIZE, host_gib=1),
            ports=wire.EnginePorts(api=api, admin=admin, kv_side_channel=side, kv_events=events, kv_replay=replay),
            extra_args=ARGUMENTS,
            start_deadline_seconds=START_SECONDS,
            drain_seconds=60,
        )
        env = {
            **os.environ,
            "PACELINE_ENGINE_CONFIG": wire.encode(self.config).decode(),
            "PACELINE_BIND_HOST": "127.0.0.1",
            "POD_NAME": self.name,
            "POD_NAMESPACE": "test",
            "POD_IP": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
            # Eager here as well: the first request for log-probabilities would wait a minute for a compiler.
            "TORCH_COMPILE_DISABLE": "1",
        }
        self.starts += 1
        self._untie()
        # The worker goes when this process does, killed or not: two real engines left behind would take the machine.
        read_end, self.tie = os.pipe()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "paceline_worker.engine"],
                env=env | {"PACELINE_PARENT_FD": str(read_end)},
                pass_fds=(read_end,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        os.close(read_end)

    @property
    def log(self) -> Path:
        """Output of the start that is running."""
        return self.directory / f"{self.name}-{self.starts}.log"

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Status and body of ``/readyz``; status 0 when nobody answers."""
        try:
            answer = httpx.get(f"{self.admin}/readyz", trust_env=False, timeout=10)
        except httpx.TransportError:
            return 0, {}
        return answer.status_code, answer.json()

    def wait_ready(self) -> None:
        """Return when it serves; fails with the end of its log when it ends first."""
        while self.readiness()[0] != 200:
            if not self.running:
                last = "\n".join(self.log.read_text(errors="replace").splitlines()[-LAST_LINES:])
                raise AssertionError(f"engine {self.name} ended before it was ready:\n{last}")
            time.sleep(0.5)

    def stop(self) -> int:
        """Stop it as a kubelet does; exit status of the worker."""
        assert self.process is not None
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()
        finally:
            self._untie()

    def _untie(self) -> None:
        if self.tie is not None:
            os.close(self.tie)
            self.tie = None

    def endpoint(self, role: wire.Role) -> wire.EngineEndpoint:
        """What the router is told of it."""
        return wire.EngineEndpoint(
            name=self.name,
            host="127.0.0.1",
            port=self.ports.api,
            role=role,
            state=wire.EngineState.READY,
            start_id=f"{self.name}-{self.starts}",
        )

    def contract(self) -> Engine:
        """What the contract suite needs to know of it."""
        local = "tcp://127.0.0.1:{}".format
        return Engine(self.api, kv_events=local(self.ports.kv_events), kv_replay=local(self.ports.kv_replay))


@dataclass
class EnginePair:
    """Two engines of one model. A test that ends one leaves it ended; the next one that needs it starts it again."""

    a: EngineProcess
    b: EngineProcess
    met: tuple[int, int] = (0, 0)
    """Which start of either has moved blocks to and from which start of the other."""

    @staticmethod
    def ensure_running(*engines: EngineProcess) -> None:
        """Start what does not run, together, and wait until all of them serve."""
        for engine in engines:
            if not engine.running:
                engine.start()
        for engine in engines:
            engine.wait_ready()

    def ensure_met(self) -> None:
        """Have blocks moved both ways by the starts that are running: what comes after no longer waits for a handshake.

        vLLM gives up on its first handshake with an engine after five seconds, counts that as a failed transfer and
        computes the prompt itself. Two engines on two cores can take longer, so here a counted failure is tried again.
        """
        starts = (self.a.starts, self.b.starts)
        if self.met != starts:
            _meet(self.a, self.b)
            _meet(self.b, self.a)
            self.met = starts


def _meet(prefill: EngineProcess, decode: EngineProcess) -> None:
    for _ in range(MEETINGS):
        before, failed_before = _transfers(decode)
        # A few blocks that neither has seen.
        body = {"model": MODEL, "prompt": uuid4().hex * 8, "max_tokens": 1, "temperature": 0}
        first = _complete(prefill, body | {"kv_transfer_params": REMOTE_DECODE})
        _complete(decode, body | {"kv_transfer_params": first["kv_transfer_params"]})
        until = time.monotonic() + COUNTED_SECONDS
        tokens, failed = _transfers(decode)
        while tokens == before and failed == failed_before and time.monotonic() < until:
            time.sleep(0.1)
            tokens, failed = _transfers(decode)
        if tokens > before:
            return
        assert failed > failed_before, f"{decode.name} got no blocks, and counts no failed transfer"
    raise AssertionError(f"{decode.name} failed to get blocks of {prefill.name} {MEETINGS} times")


def _complete(engine: EngineProcess, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{engine.api}/v1/completions", json=body, trust_env=False, timeout=180)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def _transfers(engine: EngineProcess) -> tuple[float, float]:
    """Prompt tokens that came from another engine, and transfers that failed, since it started."""
    page = httpx.get(f"{engine.api}/metrics", trust_env=False, timeout=180).text
    return total(page, TRANSFERRED, source="external_kv_transfer"), total(page, FAILED)


@dataclass
class RouterProcess:
    """The router over the two engines."""

    process: subprocess.Popen[bytes]
    url: str
    admin: str
    fleet_file: Path
    version: int = 0

    def assign(self, *engines: wire.EngineEndpoint) -> None:
        """Replace the fleet, and wait until the router has taken it."""
        self.version += 1
        replace(self.fleet_file, wire.encode(wire.Fleet(version=self.version, engines=engines)))
        while self._taken() != self.version or httpx.get(f"{self.admin}/readyz", trust_env=False).status_code != 200:
            assert self.process.poll() is None, "the router ended"
            time.sleep(0.05)

    def _taken(self) -> int:
        try:
            document = json.loads(httpx.get(f"{self.admin}/fleet", trust_env=False).text)
        except httpx.TransportError:
            return 0
        return int(document["version"])
