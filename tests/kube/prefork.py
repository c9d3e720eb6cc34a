"""Operators that start in a tenth of the time: forked from a process that has imported everything and done nothing.

For tests that start hundreds of them. ``python -m tests.kube.prefork`` is that process; it reads orders, a JSON line
each, from its standard input, and ends with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.api.documents import ROOT

POLL_SECONDS = 0.05


class Prefork:
    """The process, seen from the tests. May be used by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Forked:
        """Run ``paceline`` with these arguments."""
        order = {"arguments": list(arguments), "environment": dict(environment), "log": str(log)}
        return Forked(self, int(self.ask(order)))

    def ask(self, order: Mapping[str, Any]) -> Any:
        """Have something done; the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it. What it started is ended by whoever had it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Forked:
    """One process of it, with what tests use of :class:`subprocess.Popen`."""

    def __init__(self, server: Prefork, pid: int) -> None:
        self._server = server
        self._status: int | None = None
        self.pid = pid

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        if self._status is None:
            self._status = self._server.ask({"poll": self.pid})
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("paceline", timeout or 0)
            time.sleep(POLL_SECONDS)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(order: Mapping[str, Any]) -> None:
    """Become the operator. Never returns."""
    from paceline.cli import main

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["paceline", *order["arguments"]]
    status = 1
    try:
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _serve() -> None:
    import paceline.controller.operator
    import paceline.planner.make  # noqa: F401 - imported for the processes to come

    for line in sys.stdin.buffer:
        order = json.loads(line)
        answer: int | None
        if "poll" in order:
            pid, status = os.waitpid(order["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                _run(order)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
