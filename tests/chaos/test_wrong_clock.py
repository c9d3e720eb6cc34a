"""That the case with the wrong clock has one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def test_a_program_that_runs_with_a_wrong_clock_sees_it(tmp_path: Path) -> None:
    (tmp_path / "clock").write_text("86400")
    (tmp_path / "shows.py").write_text("import time; print(time.time())")
    seen = subprocess.run(
        [sys.executable, "-c",
         f"import sys; sys.path[:0] = [{str(tmp_path)!r}, '.']; sys.argv = ['', {str(tmp_path / 'clock')!r}, 'shows'];"
         "from tests.chaos.wrong_clock import main; main()"],
        capture_output=True, check=True, text=True,
    )  # fmt: skip
    assert float(seen.stdout) - time.time() > 86_000
