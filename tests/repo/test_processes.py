"""Ports for tests: who asks side by side is never given the same ones."""

from __future__ import annotations

import json
import subprocess
import sys

ASKS = """
import json, sys
from tests.processes import free_ports
print(json.dumps(free_ports(150) + free_ports(150)), flush=True)
sys.stdin.read()
"""


def test_a_port_is_given_away_once_while_whoever_asked_runs() -> None:
    askers = [
        subprocess.Popen([sys.executable, "-c", ASKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        given: list[int] = []
        for asker in askers:
            assert asker.stdout is not None
            given += json.loads(asker.stdout.readline())
    finally:
        for asker in askers:
            asker.communicate()
    assert len(given) == len(set(given)) == 600
