"""Two real engines exchange their roles while they serve: no request fails, and every answer is that of a quiet run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from paceline.api.wire import Role
from paceline.local.plan import ClusterOptions, with_model_path
from tests.api.documents import sample
from tests.bench.flips import local_cluster, run_flips, token_prompts
from tests.vllm.engines import EnginePair

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

FLIPS = 50


async def test_fifty_role_changes_of_two_real_engines_fail_no_request_and_change_no_token(
    engine_processes: EnginePair, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two engines are all that this machine holds.
    for engine in (engine_processes.a, engine_processes.b):
        if engine.running:
            engine.stop()
    md = with_model_path(sample("cpu"), model)
    options = ClusterOptions(backend="vllm", port=0, counts={Role.PREFILL: 1, Role.DECODE: 1})
    prompts = token_prompts(6, longest=900, alphabet=range(40, 400))
    async with local_cluster(md, options, tmp_path) as (cluster, session):
        outcome = await run_flips(
            cluster, session, prompts, model=md.spec.model.client_name, flips=FLIPS, clients=3, max_tokens=24
        )
    with capsys.disabled():
        sys.stdout.write(f"\n{outcome}\n")
    assert outcome.wrong == []
    assert len(outcome.served) >= FLIPS
