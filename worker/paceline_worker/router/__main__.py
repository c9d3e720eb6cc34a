"""``python -m paceline_worker.router``: reads the settings, serves until SIGTERM, finishes what is in flight."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import Final

import uvloop

from paceline.errors import PacelineError
from paceline_worker.router.app import Router
from paceline_worker.router.settings import Settings, from_process

log = logging.getLogger("paceline_worker.router")

GRACE_SECONDS: Final = 30.0
ORPHANED: Final = 1
"""Exit status when the parent is gone."""


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if settings.parent_fd is not None:
        _follow_parent(loop, settings.parent_fd)
    router = Router(settings)
    await router.start()
    # What is alive now lives as long as the process: no collection needs to look at it again.
    gc.collect()
    gc.freeze()
    stopped = asyncio.create_task(stop.wait(), name="stop")
    running = asyncio.create_task(router.run(), name="run")
    try:
        await asyncio.wait((stopped, running), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        log.info("stopping: requests in flight have %g s", GRACE_SECONDS)
        await router.close(grace_seconds=GRACE_SECONDS)
        stopped.cancel()
        running.cancel()


def _follow_parent(loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
    def readable() -> None:
        if not os.read(descriptor, 4096):
            os._exit(ORPHANED)

    loop.add_reader(descriptor, readable)


def main() -> int:
    """Exit status of the process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = from_process(sys.argv[1:])
        uvloop.run(_serve(settings))
    except PacelineError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
