"""vLLM's own load client completes a run against the router without an error."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.engines import TRANSFERRED, grown, metric
from tests.vllm.engines import MODEL, EnginePair, RouterProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

REQUESTS = 24
# `vllm bench serve`: the command itself asks for the metadata of a distribution named vllm, which the CPU build is not.
BENCH = (
    "import argparse; from vllm.benchmarks import serve; parser = argparse.ArgumentParser();"
    "serve.add_cli_args(parser); serve.main(parser.parse_args())"
)


@pytest.mark.parametrize(("backend", "path"), [("openai", "/v1/completions"), ("openai-chat", "/v1/chat/completions")])
async def test_a_run_of_the_load_client_has_no_failed_request(
    pair: EnginePair, router: RouterProcess, model: Path, tmp_path: Path, backend: str, path: str
):
    decode = pair.b.contract()
    before = await metric(decode, TRANSFERRED, source="external_kv_transfer")
    flags = {
        "--backend": backend,
        "--base-url": router.url,
        "--endpoint": path,
        "--model": MODEL,
        "--tokenizer": str(model),
        "--dataset-name": "random",
        "--random-input-len": "200",
        "--random-output-len": "16",
        "--num-prompts": str(REQUESTS),
        "--request-rate": "8",
        "--percentile-metrics": "ttft,itl,e2el",
        "--result-dir": str(tmp_path),
        "--result-filename": "result.json",
    }
    run = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", BENCH, "--ignore-eos", "--save-result", "--disable-tqdm", *sum(flags.items(), ())],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["completed"] == REQUESTS
    assert result["failed"] == 0
    assert result["total_output_tokens"] == 16 * REQUESTS
    assert await grown(decode, TRANSFERRED, before, source="external_kv_transfer") > 0
