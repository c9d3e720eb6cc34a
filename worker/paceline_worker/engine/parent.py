"""Ends the worker and all below it when whoever started it is gone. Called by ``__main__``.

The local runtime keeps the write end of a pipe open for as long as it lives; even ``kill -9`` closes it. A thread reads
the other end, so that nothing the event loop does can delay the end.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Final

from paceline.errors import ConfigError
from paceline_worker.engine.process import become_reaper, kill_descendants
from paceline_worker.engine.settings import PARENT_FD

EXIT_PARENT_GONE: Final = 1
KILL_ROUNDS: Final = 10
"""A process may be forked between listing and killing; the next round finds it."""


def watch_parent(descriptor: int) -> None:
    """Kill every process below this one and exit, without further ado, when ``descriptor`` reads end-of-file."""
    try:
        os.set_inheritable(descriptor, False)
    except OSError as error:
        raise ConfigError(
            f"{PARENT_FD} is {descriptor}, which is not an open file descriptor: {error.strerror}."
        ) from None
    become_reaper()
    threading.Thread(target=_wait, args=(descriptor,), daemon=True, name="parent watch").start()


def _wait(descriptor: int) -> None:
    # A descriptor that fails says as little of the parent as one at its end.
    with contextlib.suppress(OSError):
        while os.read(descriptor, 1):
            pass
    for _ in range(KILL_ROUNDS):
        if not kill_descendants():
            break
    os._exit(EXIT_PARENT_GONE)
