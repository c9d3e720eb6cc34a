"""Engines change roles while they serve: no request fails, and every answer is that of an undisturbed run."""

from __future__ import annotations

from pathlib import Path

from paceline.api.wire import Role
from paceline.local.plan import ClusterOptions
from tests.api.documents import sample
from tests.bench.flips import local_cluster, run_flips, token_prompts


async def test_role_changes_under_load_fail_no_request_and_change_no_token(tmp_path: Path) -> None:
    options = ClusterOptions(port=0, speed=2.0, counts={Role.PREFILL: 2, Role.DECODE: 2})
    async with local_cluster(sample("elastic"), options, tmp_path) as (cluster, session):
        outcome = await run_flips(
            cluster, session, token_prompts(6, longest=4000), model="qwen3-32b", flips=8, clients=8, max_tokens=30
        )
    assert outcome.wrong == []
    assert len(outcome.served) == len(outcome.known) >= 8
    assert outcome.answers > 0
