"""A run to look at: `paceline up` on emulated engines under load, and a real Prometheus with the chart's rules that
scrapes it, or whatever else a file of targets names.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.observability.promtool import RULES
from tests.processes import free_ports
from tests.programs import ROOT, prometheus

NAMESPACE, DEPLOYMENT = "default", "quickstart"
"""Those of the local run's ModelDeployment."""
START_SECONDS = 180
STOP_SECONDS = 30
SCRAPE_SECONDS = 1
TENANTS: dict[str, dict[str, int]] = {"analytics": {"tokensPerMinute": 150_000}, "chat": {}}
"""Terms by name. One of them uses more than it may, so that this can be seen too."""


class Prometheus:
    """A running server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=20)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Series of an instant query."""
        return self._ask("/api/v1/query", query=expression)["result"]  # type: ignore[no-any-return]

    def range(self, expression: str, seconds: float = 60, step: float = 2) -> list[dict[str, Any]]:
        """Series of a range query that ends now."""
        now = time.time()
        answer = self._ask("/api/v1/query_range", query=expression, start=now - seconds, end=now, step=step)
        return answer["result"]  # type: ignore[no-any-return]

    def label_values(self, selector: str, label: str) -> list[str]:
        """What ``label_values()`` gives in Grafana."""
        found = self._ask(f"/api/v1/label/{label}/values", **{"match[]": selector})
        return list(found)

    def rules(self) -> list[dict[str, Any]]:
        """All rules with their health."""
        return [rule for group in self._ask("/api/v1/rules")["groups"] for rule in group["rules"]]

    def until(self, what: str, look: Callable[[], Any], seconds: float = START_SECONDS) -> Any:
        """Look until there is something."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
            time.sleep(0.3)
        return found

    def _ask(self, path: str, **query: Any) -> Any:
        answer = self._http.get(path, params=query)
        document = answer.json()
        assert document["status"] == "success", document
        return document["data"]

    def close(self) -> None:
        self._http.close()


@contextmanager
def process(command: list[str], log: Path, end: signal.Signals = signal.SIGTERM) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own group, ended at the end of the block."""
    with log.open("wb") as output:
        one = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield one
        finally:
            one.send_signal(end)
            try:
                one.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(one.pid, signal.SIGKILL)
                one.wait()


def closed_quickstart(folder: Path) -> tuple[str, str]:
    """The quickstart with tenants, and the folder of their keys."""
    manifest = yaml.safe_load((ROOT / "manifests" / "samples" / "quickstart.yaml").read_text())
    manifest["spec"]["tenancy"] = {
        "mode": "ApiKeys",
        "tenants": [
            {"name": name, "apiKeysSecret": {"name": "keys", "key": name}, **terms} for name, terms in TENANTS.items()
        ],
    }
    file, keys = folder / "quickstart.yaml", folder / "keys"
    file.write_text(yaml.safe_dump(manifest))
    keys.mkdir()
    for name in TENANTS:
        (keys / name).write_text(f"a-key-of-{name}-0123456789\n")
    return str(file), str(keys)


@contextmanager
def local_run(folder: Path, *flags: str) -> Iterator[Path]:
    """`paceline up` with the quickstart and tenants; its file of targets."""
    run = folder / "run"
    targets = run / "prometheus-targets.json"
    program = str(Path(sys.executable).with_name("paceline"))
    manifest, keys = closed_quickstart(folder)
    command = [program, "up", manifest, "--tenant-keys", keys, "--port", "0", "--run-dir", str(run), *flags]
    with process(command, folder / "up.log", signal.SIGINT) as one:
        deadline = time.monotonic() + START_SECONDS
        while not (targets.exists() and any("router" in str(group) for group in json.loads(targets.read_text()))):
            assert one.poll() is None, (folder / "up.log").read_text()
            assert time.monotonic() < deadline, (folder / "up.log").read_text()
            time.sleep(0.2)
        yield targets


@contextmanager
def scraping(folder: Path, targets: Path) -> Iterator[Prometheus]:
    """A Prometheus with the chart's rules that scrapes what the file of targets names, now and later."""
    (port,) = free_ports(1)
    configuration = {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "paceline",
                "honor_labels": True,
                "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}],
            }
        ],
    }
    file = folder / "prometheus.yaml"
    file.write_text(yaml.safe_dump(configuration))
    command = [
        str(prometheus()), f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(process(command, folder / "prometheus.log"))
        one = Prometheus(f"http://127.0.0.1:{port}")
        stack.callback(one.close)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if httpx.get(f"{one.url}/-/ready", trust_env=False, timeout=2).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, (folder / "prometheus.log").read_text()
            time.sleep(0.1)
        yield one
