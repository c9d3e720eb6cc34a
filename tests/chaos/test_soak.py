"""The short forms of the soaks: what is left when the load has gone. Slopes of memory need the long forms, ``python -m
tests.bench.soak_streams`` and ``python -m tests.bench.soak_index``.
"""

from __future__ import annotations

import pytest

from paceline.api.wire import Late
from tests.bench import soak_index
from tests.bench.soak_streams import STREAMS, soak
from tests.bench.stack import running_stack

PROFILE = "qwen3-32b-h200-tp2"


async def test_streams_leave_no_sockets_and_no_tasks_behind(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("soak")
    with running_stack(folder, prefill=2, decode=2, profile=PROFILE, speed=1.0, late=Late.SERVE) as stack:
        report = await soak(stack, STREAMS, minutes=0.3)
    assert report["failed"] == 0, report
    assert report["left"] == 0, report
    completed = report["completed"]
    assert isinstance(completed, int)
    assert completed > STREAMS, "no stream ended before the last ones: this run shows nothing"


async def test_an_index_equals_its_engines_caches_after_restarts_resets_and_churn(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = await soak_index.run(minutes=0.6, engines=3, rate=25.0)
    said = capsys.readouterr().out
    assert wrong == 0, said
    assert "churn: {}" not in said
