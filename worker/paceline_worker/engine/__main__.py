"""Entry point: ``python -m paceline_worker.engine``. Reads the environment, runs the worker, and turns errors into one
line and an exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from paceline.clock import WallClock
from paceline.errors import PacelineError
from paceline_worker.engine import settings as names
from paceline_worker.engine.emulator_args import emulator_plan
from paceline_worker.engine.launch import LaunchPlan
from paceline_worker.engine.parent import watch_parent
from paceline_worker.engine.settings import Backend, Settings, from_environment
from paceline_worker.engine.vllm_args import vllm_plan
from paceline_worker.engine.worker import EngineWorker

TERMINATION_LOG: Final = "/dev/termination-log"
"""A pod's ``terminationMessagePath`` by default."""
TERMINATION_LOG_ENV: Final = "PACELINE_TERMINATION_LOG"
LONGEST_WORD: Final = 1000
"""Characters; the kubelet keeps 4096 bytes of all containers together."""
LOG_FORMAT: Final = "%(asctime)s %(levelname)s engine: %(message)s"


def main() -> int:
    """Run to the end; exit code."""
    logging.basicConfig(level=logging.INFO, format=LOG_FORMAT, stream=sys.stdout)
    try:
        settings = from_environment(os.environ)
        with tempfile.TemporaryDirectory(prefix="paceline-engine-") as run_directory:
            plan = _plan(settings, run_directory)
            for path, content in plan.files.items():
                Path(path).write_text(content)
            asyncio.run(_run(settings, plan))
    except PacelineError as error:
        sys.stderr.write(f"error: {error}\n")
        leave_word(str(error), Path(os.environ.get(TERMINATION_LOG_ENV, TERMINATION_LOG)))
        return error.exit_code
    return 0


def leave_word(message: str, log: Path) -> None:
    """Where the kubelet looks for a container's last word. Outside of a pod there is no such file, and none is made."""
    with contextlib.suppress(OSError):
        if log.is_file():
            log.write_text(message[:LONGEST_WORD], "utf-8")


def _plan(settings: Settings, run_directory: str) -> LaunchPlan:
    if settings.backend is Backend.EMULATOR:
        return emulator_plan(settings, python=sys.executable)
    return vllm_plan(settings, python=sys.executable, run_directory=run_directory)


async def _run(settings: Settings, plan: LaunchPlan) -> None:
    # The child is not this process's parent's business: it ends with the worker.
    environment = {name: value for name, value in os.environ.items() if name != names.PARENT_FD}
    worker = EngineWorker(settings, plan, WallClock(), environment=environment, output=sys.stdout)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop.signal)
    if settings.parent_fd is not None:
        watch_parent(settings.parent_fd)
    await worker.run()


if __name__ == "__main__":
    sys.exit(main())
