"""``paceline bench``: a load against an endpoint that serves already, and what is reported of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.cli.conftest import Command
from tests.processes import free_ports

START_SECONDS = 60.0
SHORT = ("--minutes", "0.1", "--rate-scale", "3", "--max-model-len", "4096")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An emulated engine that runs fast."""
    (port,) = free_ports(1)
    words = ["--host", "127.0.0.1", "--port", str(port), "--model", "tiny", "--speed", "50"]
    process = subprocess.Popen([sys.executable, "-m", "paceline_worker.emulator", *words], env=os.environ.copy())
    url = f"http://127.0.0.1:{port}"
    try:
        until_served(url)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def until_served(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx.get(f"{url}/v1/models", trust_env=False).raise_for_status()
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


def test_a_load_is_sent_and_reported_against_the_limits(endpoint: str, paceline: Command) -> None:
    code, out, _ = paceline("bench", endpoint, *SHORT, "--ttft", "60000", "--itl", "60000")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert code == 0
    assert lines["deployment"] == f"tiny on {endpoint}"
    assert lines["completed"].endswith("failed 0")
    assert lines["attainment"].startswith("100.0% within both (target 95%: met)")
    assert "cache" not in lines


def test_an_objective_that_is_missed_ends_with_one_and_programs_get_a_document(
    endpoint: str, paceline: Command
) -> None:
    code, out, _ = paceline("bench", f"{endpoint}/v1/", *SHORT, "--ttft", "1", "--itl", "1", "-o", "json")
    found = json.loads(out)
    assert code == 1
    assert (found["met"], found["failed"]) == (False, 0)
    assert found["offered"] == found["completed"] > 0


def test_a_model_that_is_not_served_fails_every_request(endpoint: str, paceline: Command) -> None:
    code, out, _ = paceline("bench", endpoint, *SHORT, "--model", "other", "-o", "json")
    found = json.loads(out)
    assert code == 1
    assert found["failed"] == found["offered"] > 0
    assert any("other" in error for error in found["errors"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["127.0.0.1:8000"], 2, "must begin with http:// or https://"),
        (["http://127.0.0.1:9"], 4, "http://127.0.0.1:9 can't be asked"),
        (["http://127.0.0.1:9", "--load", "tea"], 2, "'tea' is not a load"),
    ],
)
def test_what_can_not_be_loaded_is_named(paceline: Command, arguments: list[str], code: int, message: str) -> None:
    found, _, err = paceline("bench", *arguments)
    assert found == code
    assert message in err
