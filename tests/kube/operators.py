"""Operators as local processes, with the rights that the install manifest gives them and no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.api.documents import ROOT
from tests.kube.prefork import Forked, Prefork
from tests.processes import free_ports
from tests.series import series, total

START_SECONDS = 180
STOP_SECONDS = 60
PROGRAM = Path(sys.executable).with_name("paceline")


class Operator:
    """One replica."""

    def __init__(self, process: subprocess.Popen[bytes] | Forked, log: Path, metrics_port: int) -> None:
        self.process = process
        self.log = log
        self.address = f"127.0.0.1:{metrics_port}"
        """Of its page of metrics."""

    def series(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Every series of that name, as of one moment."""
        return series(self._page(), name)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the series of that name whose labels are among those given."""
        return total(self._page(), name, **labels)

    def _page(self) -> str:
        return httpx.get(f"http://{self.address}/metrics", timeout=5, trust_env=False).text

    def requests(self, *verbs: str) -> float:
        """Requests to the API server so far, by verb."""
        return sum(
            value for have, value in self.series("paceline_operator_api_requests_total") if have.get("verb") in verbs
        )

    def writes(self) -> float:
        """Requests that change something, but for those that keep the lease."""
        verbs = {"patch", "apply", "create", "update", "delete"}
        return sum(
            value
            for have, value in self.series("paceline_operator_api_requests_total")
            if have.get("verb") in verbs and have.get("resource") != "leases.coordination.k8s.io"
        )

    @property
    def runs(self) -> bool:
        """Whether it answers at all."""
        try:
            self.metric("paceline_operator_is_leader")
        except httpx.TransportError:
            return False
        return True

    @property
    def leads(self) -> bool:
        """Whether it holds the lease."""
        return self.runs and self.metric("paceline_operator_is_leader") == 1

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> int:
        """SIGTERM, as the kubelet does; its exit status."""
        self.process.terminate()
        return self._end()

    def kill(self) -> int:
        """SIGKILL: no chance to tidy up."""
        self.process.kill()
        return self._end()

    def pause(self) -> None:
        """Stop the process where it is, as a machine does that hangs."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def _end(self) -> int:
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def start(
    kubeconfig: Path,
    log: Path,
    *flags: str,
    environment: Mapping[str, str] | None = None,
    identity: str = "operator",
    prefork: Prefork | None = None,
) -> Operator:
    """Start an operator; it may not be ready yet. ``prefork``: as a fork of that."""
    (port,) = free_ports(1)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PACELINE_", "KUBE"))}
    own = {**inherited, "KUBECONFIG": str(kubeconfig), "POD_NAME": identity, **(environment or {})}
    arguments = ["operator", "--metrics-host", "127.0.0.1", "--metrics-port", str(port), *flags]
    if prefork is not None:
        return Operator(prefork.start(arguments, own, log), log, port)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [PROGRAM, *arguments], env=own, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT
        )
    return Operator(process, log, port)


@contextmanager
def running(
    kubeconfig: Path, log: Path, *flags: str, environment: Mapping[str, str] | None = None, identity: str = "operator"
) -> Iterator[Operator]:
    """An operator that leads, until the end of the block."""
    one = start(kubeconfig, log, *flags, environment=environment, identity=identity)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not one.leads:
            assert one.process.poll() is None, f"the operator ended:\n{one.tail()}"
            assert time.monotonic() < deadline, f"the operator does not lead:\n{one.tail()}"
            time.sleep(0.1)
        yield one
    finally:
        with suppress(ProcessLookupError):
            one.resume()
        if one.process.poll() is None:
            assert one.stop() == 0, f"the operator did not end by itself:\n{one.tail()}"
