"""Output of a local pod: a file of bounded size, and the last lines in memory for messages."""

from __future__ import annotations

import io
import logging
from collections import deque
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

MAX_FILE_BYTES: Final = 8 * 1024 * 1024
"""A pod's log takes at most twice this on disk: the file and the one before it."""
TAIL_LINES: Final = 200
MAX_LINE_BYTES: Final = 8_192
"""Longer lines are cut in messages, never in the file."""


class PodLog:
    """Takes bytes as they come, writes them to ``path`` and remembers the last lines."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._tail: deque[bytes] = deque(maxlen=TAIL_LINES)
        self._partial = b""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: io.FileIO = path.open("wb", buffering=0)
        self._written = 0

    def write(self, data: bytes) -> None:
        """Append output. The file is begun anew, and the full one kept as ``NAME.1``, when it reaches its bound.

        A full disk loses the output, not the pod.
        """
        try:
            self._write(data)
        except OSError as error:
            log.warning("%s: output lost: %s", self.path, error)
        *lines, partial = (self._partial + data).split(b"\n")
        self._tail.extend(line[:MAX_LINE_BYTES] for line in lines)
        self._partial = partial[:MAX_LINE_BYTES]

    def _write(self, data: bytes) -> None:
        if self._written + len(data) > self._max_bytes and self._written:
            self._file.close()
            self.path.replace(self.path.with_name(self.path.name + ".1"))
            self._file = self.path.open("wb", buffering=0)
            self._written = 0
        self._file.write(data)
        self._written += len(data)

    def last_lines(self, count: int) -> list[str]:
        """The last lines that are not empty, oldest first."""
        lines = [line.decode("utf-8", "replace").rstrip() for line in (*self._tail, self._partial)]
        return [line for line in lines if line][-count:]

    def close(self) -> None:
        """Close the file."""
        self._file.close()
