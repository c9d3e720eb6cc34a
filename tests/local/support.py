"""What the tests of the local runtime share: fake programs, and questions about processes."""

import os
import sys
from pathlib import Path

from paceline.local.process import Program

FAKE_POD = Path(__file__).with_name("fakepod.py")


def python(code: str, **env: str) -> Program:
    """A program that runs Python code."""
    return Program((sys.executable, "-u", "-c", code), {**os.environ, **env})


def fake_pod(**env: str) -> Program:
    """The fake pod with FAKE_ variables."""
    return Program((sys.executable, str(FAKE_POD)), {**os.environ, **env})
