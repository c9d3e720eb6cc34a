"""Runs a program whose wall clock is off by as many seconds as a file says, read anew each time it looks at it.

Run: ``python -m tests.chaos.wrong_clock FILE MODULE ARGUMENT...``. The monotonic clock is right, as it is in reality.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path


def main() -> None:
    """Set the clock wrong and become the program."""
    file, module = Path(sys.argv[1]), sys.argv[2]
    right = time.time
    time.time = lambda: right() + float(file.read_text() or 0)  # type: ignore[assignment]
    sys.argv = [module, *sys.argv[3:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
