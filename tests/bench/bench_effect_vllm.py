"""What routing by cache events is worth on two real vLLM engines on CPU: chats of many turns, against round-robin.

Run: ``.venv-vllm/bin/python -m tests.bench.bench_effect_vllm [--out out/bench-vllm]`` (``make test-vllm`` installs the
environment). The model has 8 layers of width 512 and random weights: it says nothing, but its prefill costs. The two
routers take turns, round by round, on conversations of their own; of every answer the time to the first token is taken,
and of the engines how many prompt tokens they had to compute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import httpx

from paceline.api import wire
from tests.bench.stack import wait_for
from tests.processes import free_ports
from tests.series import total
from tests.vllm.tiny_model import SEED, VOCABULARY, make_tokenizer

MODEL = "eight-layers"
BLOCK_SIZE = 32
"""vLLM's attention on CPU wants a multiple of 32."""
MAX_MODEL_LEN = 8192
START_SECONDS = 600.0
WORDS = [
    "engine",
    "cache",
    "router",
    "prefix",
    "block",
    "token",
    "prefill",
    "decode",
    "planner",
    "stream",
    "queue",
    "answer",
    "session",
    "tenant",
]
ENGINE_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
}  # fmt: skip


@dataclass(slots=True)
class Measured:
    """What one router made of its rounds."""

    ttft: list[float] = field(default_factory=list)
    """Of the second and later turns, seconds."""
    first: list[float] = field(default_factory=list)
    """Of first turns."""
    prompt: float = 0.0
    cached: float = 0.0

    def row(self) -> dict[str, float]:
        ranked = sorted(self.ttft)
        return {
            "answers": len(self.ttft) + len(self.first),
            "first turn p50 ms": round(1000 * statistics.median(self.first), 1),
            "later turns min ms": round(1000 * ranked[0], 1),
            "later turns p50 ms": round(1000 * statistics.median(ranked), 1),
            "later turns p90 ms": round(1000 * ranked[int(0.9 * len(ranked))], 1),
            "later turns max ms": round(1000 * ranked[-1], 1),
            "cached share of prompt tokens": round(self.cached / self.prompt, 4),
        }


def make_model(folder: Path) -> None:
    """Write tokenizer, configuration and weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(folder)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1536, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=MAX_MODEL_LEN, tie_word_embeddings=False, bos_token_id=0,
        eos_token_id=1, pad_token_id=1, dtype="float32",
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


@contextmanager
def process(arguments: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process group that is stopped by its own id at the end: an engine has children."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=os.environ | environment,
        )  # fmt: skip
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(timeout=60)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def start(processes: ExitStack, out: Path) -> tuple[list[str], str]:
    """URLs of the two engines and of the router."""
    model, ports = out / "model", free_ports(8)
    if not (model / "config.json").exists():
        make_model(model)
    endpoints, engines = [], []
    for number in range(2):
        name, (port, events, replay) = f"engine-{number}", ports[3 * number : 3 * number + 3]
        publisher = {
            "enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"tcp://127.0.0.1:{events}",
            "replay_endpoint": f"tcp://127.0.0.1:{replay}", "topic": f"kv@{name}@{MODEL}",
        }  # fmt: skip
        engines.append(processes.enter_context(process(
            ["vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port), "--model", str(model),
             "--served-model-name", MODEL, "--block-size", str(BLOCK_SIZE), "--enforce-eager", "--dtype", "bfloat16",
             "--enable-prefix-caching", "--max-model-len", str(MAX_MODEL_LEN), "--kv-events-config",
             json.dumps(publisher)],
            out / f"{name}.log", ENGINE_ENVIRONMENT,
        )))  # fmt: skip
        endpoints.append(
            wire.EngineEndpoint(
                name=name, host="127.0.0.1", port=port, role=wire.Role.BOTH, state=wire.EngineState.READY, start_id="1",
                kv_events=f"tcp://127.0.0.1:{events}", kv_replay=f"tcp://127.0.0.1:{replay}",
            )
        )  # fmt: skip
    urls = [f"http://127.0.0.1:{endpoint.port}" for endpoint in endpoints]
    for url, engine in zip(urls, engines, strict=True):
        wait_for(f"{url}/health", engine, seconds=START_SECONDS)
    fleet = out / "fleet.json"
    fleet.write_bytes(wire.encode(wire.Fleet(version=1, engines=tuple(endpoints))))
    config = wire.RouterConfig(
        deployment=MODEL, namespace="default", served_names=(MODEL,), disaggregated=False, block_size=BLOCK_SIZE,
        objective=wire.Objective(ttft_milliseconds=2000, itl_milliseconds=100), tokenizer=str(model),
        max_model_len=MAX_MODEL_LEN,
    )  # fmt: skip
    arguments = [
        "paceline_worker.router", "--host", "127.0.0.1", "--port", str(ports[6]), "--admin-port", str(ports[7]),
        "--fleet-file", str(fleet),
    ]  # fmt: skip
    environment = {"PACELINE_ROUTER_CONFIG": wire.encode(config).decode()}
    router = processes.enter_context(process(arguments, out / "router.log", environment))
    wait_for(f"http://127.0.0.1:{ports[7]}/readyz", router)
    return urls, f"http://127.0.0.1:{ports[6]}"


async def prompt_tokens(client: httpx.AsyncClient, engines: list[str]) -> tuple[float, float]:
    """Prompt tokens of all engines so far, and those of them that came out of a cache."""
    pages = [(await client.get(f"{engine}/metrics")).text for engine in engines]
    asked = sum(total(page, "vllm:prompt_tokens_total") for page in pages)
    return asked, sum(total(page, "vllm:prompt_tokens_cached_total") for page in pages)


async def answer(client: httpx.AsyncClient, url: str, messages: list[dict[str, str]]) -> tuple[float, str]:
    """Seconds to the first token, and the text."""
    body = {
        "model": MODEL,
        "messages": messages,
        "max_tokens": 12,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }
    begin, first, text = time.perf_counter(), 0.0, ""
    async with client.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                delta = json.loads(line[6:])["choices"][0]["delta"]
                if not first and "role" not in delta:
                    first = time.perf_counter()
                text += delta.get("content") or ""
    return (first or time.perf_counter()) - begin, text


async def converse(
    client: httpx.AsyncClient, urls: Iterator[str], rng: random.Random, turns: int, words: int, into: Measured
) -> None:
    messages: list[dict[str, str]] = []
    for turn in range(turns):
        messages.append({"role": "user", "content": " ".join(rng.choices(WORDS, k=words))})
        seconds, text = await answer(client, next(urls), messages)
        (into.ttft if turn else into.first).append(seconds)
        messages.append({"role": "assistant", "content": text})


async def measure(engines: list[str], router: str, flags: argparse.Namespace) -> dict[str, Measured]:
    results = {"round-robin": Measured(), "paceline": Measured()}
    targets = {"round-robin": engines, "paceline": [router]}
    async with httpx.AsyncClient(timeout=300, trust_env=False) as client:
        for warm in engines:
            await answer(client, warm, [{"role": "user", "content": "warm up " * 200}])
        for number in range(flags.rounds):
            for name, into in results.items():
                before = await prompt_tokens(client, engines)
                urls = cycle(targets[name])
                chats = (
                    converse(client, urls, random.Random(f"{name} {number} {chat}"), flags.turns, flags.words, into)
                    for chat in range(flags.chats)
                )
                await asyncio.gather(*chats)
                after = await prompt_tokens(client, engines)
                into.prompt += after[0] - before[0]
                into.cached += after[1] - before[1]
            sys.stderr.write(f"round {number + 1} of {flags.rounds} done\n")
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench-vllm"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--chats", type=int, default=3, help="at a time: an odd number, or round-robin is right by luck"
    )
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--words", type=int, default=150, help="that each turn adds")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    # Ended from outside, it ends its engines too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with ExitStack() as processes:
        engines, router = start(processes, flags.out.resolve())
        results = asyncio.run(measure(engines, router, flags))
    rows = {name: one.row() for name, one in results.items()}
    (flags.out / "effect.json").write_text(json.dumps(rows, indent=1) + "\n")
    print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
