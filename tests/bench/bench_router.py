"""The router side by side with others, in one run, on one machine, before the same four dummy engines.

Run: ``make bench-router`` or ``python -m tests.bench.bench_router --out out/bench``. The peers are installed from PyPI
into ``out/bench-venv``; what is not to be had is left out. Contenders take turns, round by round, so that what else
happens on the machine hits all of them; every figure is minimum, median and maximum over the rounds. CPU is that of all
threads of the router's process, from the scheduler (``/proc/PID/task/*/schedstat``, nanoseconds).

Loads: small requests over 1, 32 and 256 connections (latency added to asking an engine directly, requests per second,
CPU), 32 concurrent streams of 64 events 5 ms apart, and prompts of 64 kB (some 16,000 tokens) over 8 connections. No
two prompts are equal. This router tokenises every prompt (a byte a token, blocks of 64: as many blocks as 16,000 tokens
have), matches it against what it knows, and places it; the peers take the less busy of two engines, envoy the least
busy. Where a router had to wait for a CPU, its p99 is the scheduler's: on two busy cores a turn lasts some 3 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paceline.api import wire
from tests.bench.peers import install, peers
from tests.bench.stack import wait_for
from tests.processes import free_ports

ENGINES = 4
CONNECTIONS = 32
LOADS = {
    "one": (1, "small"), "many": (CONNECTIONS, "small"), "crowd": (256, "small"), "streams": (CONNECTIONS, "stream"),
    "long": (8, "long"),
}  # fmt: skip
OURS = {
    "sglang-router": "paceline",
    "sglang-router P/D": "paceline P/D",
    "vllm-router": "paceline",
    "envoy": "paceline",
}
"""Peer to that of our two that does the same."""
BLOCK_BYTES = 64


@dataclass(frozen=True, slots=True)
class Contender:
    """Something that answers completions; ``pid`` None for an engine itself."""

    name: str
    port: int
    pid: int | None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.5, help="of each load in each round")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    folder = flags.out.parent / "bench-venv"
    there = install(folder)
    with ExitStack() as processes:
        contenders = start(processes, flags.out, folder, there)
        results: dict[str, dict[str, list[dict[str, float]]]] = {
            contender.name: {load: [] for load in LOADS} for contender in contenders
        }
        for number in range(flags.rounds):
            order = contenders[number % len(contenders) :] + contenders[: number % len(contenders)]
            for load, (connections, kind) in LOADS.items():
                for contender in order:
                    results[contender.name][load].append(measure(contender, connections, flags.seconds, kind))
            sys.stderr.write(f"round {number + 1} of {flags.rounds} done\n")
    figures = summarise(results)
    document = {"rounds": flags.rounds, "seconds": flags.seconds, "cores": os.cpu_count(), "figures": figures}
    (flags.out / "router.json").write_text(json.dumps(document, indent=2) + "\n")
    sys.stdout.write(table(figures))
    failures = sum(sample["failures"] for loads in results.values() for samples in loads.values() for sample in samples)
    if failures:
        sys.stderr.write(f"{failures:g} requests failed\n")
    return 1 if failures else 0


def start(processes: ExitStack, out: Path, folder: Path, there: frozenset[str]) -> list[Contender]:
    """Engines, routers and peers, all listening."""
    ports = free_ports(ENGINES + 12)
    engine_ports, spare = ports[:ENGINES], iter(ports[ENGINES:])
    for port in engine_ports:
        arguments = [sys.executable, "-m", "tests.bench.dummy_engine", str(port)]
        process = processes.enter_context(running(arguments, out / f"engine-{port}.log"))
        wait_for(f"http://127.0.0.1:{port}/health", process)
    contenders = [Contender("direct", engine_ports[0], None)]
    roles = [wire.Role.PREFILL, wire.Role.PREFILL, wire.Role.DECODE, wire.Role.DECODE]
    for name, disaggregated in (("paceline", False), ("paceline P/D", True)):
        fleet = out / f"fleet-{'pd' if disaggregated else 'aggregated'}.json"
        engines = tuple(
            wire.EngineEndpoint(
                name=f"engine-{port}", host="127.0.0.1", port=port, role=role if disaggregated else wire.Role.BOTH,
                state=wire.EngineState.READY, start_id="1",
            )
            for port, role in zip(engine_ports, roles, strict=True)
        )  # fmt: skip
        fleet.write_bytes(wire.encode(wire.Fleet(version=1, engines=engines)))
        port, admin = next(spare), next(spare)
        arguments = [
            sys.executable, "-m", "paceline_worker.router", "--host", "127.0.0.1", "--port", str(port),
            "--admin-port", str(admin), "--fleet-file", str(fleet),
        ]  # fmt: skip
        config = wire.RouterConfig(
            deployment="bench", namespace="default", served_names=("bench",), disaggregated=disaggregated,
            objective=wire.Objective(ttft_milliseconds=2000, itl_milliseconds=50), local_prefill_tokens=0,
            tokenizer="bytes", block_size=BLOCK_BYTES,
        )  # fmt: skip
        environment = {"PACELINE_ROUTER_CONFIG": wire.encode(config).decode()}
        process = processes.enter_context(running(arguments, out / f"{fleet.stem}.log", environment))
        wait_for(f"http://127.0.0.1:{admin}/readyz", process)
        contenders.append(Contender(name, port, process.pid))
    for peer in peers(folder, there, engine_ports, list(spare), out):
        process = processes.enter_context(running(list(peer.arguments), out / f"{peer.name.replace('/', '')}.log"))
        wait_for(peer.health, process)
        contenders.append(Contender(peer.name, peer.port, process.pid))
    return contenders


@contextmanager
def running(
    arguments: list[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is stopped by its own id at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            arguments, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=os.environ | (environment or {}),
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def measure(contender: Contender, connections: int, seconds: float, kind: str) -> dict[str, float]:
    """One load on one contender: the client's figures, and the router's CPU for all requests, the warm-up's too."""
    before = scheduled_microseconds(contender.pid)
    client = subprocess.run(
        [sys.executable, "-m", "tests.bench.http_load", str(contender.port), str(connections), str(seconds), kind],
        stdout=subprocess.PIPE, check=True, timeout=seconds * 10 + 60,
    )  # fmt: skip
    after = scheduled_microseconds(contender.pid)
    sample: dict[str, float] = json.loads(client.stdout)
    for name, begin, end in zip(("cpu_us", "waited_us"), before, after, strict=True):
        sample[name] = (end - begin) / max(1.0, sample["sent"])
    sample["rps"] = sample["requests"] / sample["seconds"]
    return sample


def scheduled_microseconds(pid: int | None) -> tuple[float, float]:
    """What all threads of a process have run so far, and how long they waited for a CPU while they could have run."""
    ran = waited = 0
    for task in Path(f"/proc/{pid}/task").iterdir() if pid is not None else ():
        try:
            fields = (task / "schedstat").read_text().split()
        except FileNotFoundError:
            continue  # a thread that ended; routers keep theirs
        ran += int(fields[0])
        waited += int(fields[1])
    return ran / 1000, waited / 1000


def summarise(results: dict[str, dict[str, list[dict[str, float]]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Per contender and figure: minimum, median and maximum over the rounds."""
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for name, loads in results.items():
        values = {
            "CPU µs a small request": [sample["cpu_us"] for sample in loads["many"]],
            "CPU µs a stream of 64 events": [sample["cpu_us"] for sample in loads["streams"]],
            "CPU µs a prompt of 64 kB": [sample["cpu_us"] for sample in loads["long"]],
            "requests/s, 32 connections": [sample["rps"] for sample in loads["many"]],
            "waited for a CPU µs/request, 1 connection": [sample["waited_us"] for sample in loads["one"]],
        }
        for load in ("one", "many", "crowd"):
            for quantile in ("p50", "p99", "p999"):
                connections = LOADS[load][0]
                figure = f"added {quantile} µs, {connections} connection{'s' if connections > 1 else ''}"
                values[figure] = _added(results, loads, load, f"{quantile}_us")
        figures[name] = {
            figure: {"min": min(sample), "median": statistics.median(sample), "max": max(sample)}
            for figure, sample in values.items()
        }
    return figures


def _added(results: dict[str, Any], loads: dict[str, Any], load: str, figure: str) -> list[float]:
    """What a contender's latency is above that of an engine asked directly in the same round."""
    return [
        sample[figure] - direct[figure] for sample, direct in zip(loads[load], results["direct"][load], strict=True)
    ]


def table(figures: dict[str, dict[str, dict[str, float]]]) -> str:
    """A Markdown table: a row a figure, a column a contender, and for each peer how ours compares with it."""
    names = [name for name in figures if name != "direct"]
    rows = [["", *names, *(f"{OURS[name]} / {name}" for name in names if name in OURS)]]
    for figure in figures[names[0]]:
        row = [figure]
        for name in names:
            value = figures[name][figure]
            row.append(f"{value['median']:,.0f} ({value['min']:,.0f} – {value['max']:,.0f})")
        for name in names:
            if name in OURS:
                theirs = figures[name][figure]["median"]
                row.append(f"{figures[OURS[name]][figure]['median'] / theirs:.2f}" if theirs > 0 else "")
        rows.append(row)
    rows.insert(1, ["---"] * len(rows[0]))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
