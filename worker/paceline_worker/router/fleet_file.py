"""Follows the fleet file: whoever manages the engines replaces it atomically, the router polls for another file."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from paceline.api import wire
from paceline.errors import ConfigError

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.05
MAX_FILE_BYTES: Final = 16 * 1024 * 1024
"""About 50,000 engines."""

Stamp = tuple[int, int, int]


class FleetFile:
    """One file and what it last held. A file that can't be used is refused, and the last good one stays in force."""

    def __init__(self, path: Path, apply: Callable[[wire.Fleet], None], refused: Callable[[], None]) -> None:
        self._path = path
        self._apply = apply
        self._refused = refused
        self._seen: Stamp | None = None
        self._complained = False

    @property
    def stale_seconds(self) -> float:
        """A file that does not change is up to date."""
        return 0.0

    def begin(self) -> None:
        """Read what is there already."""
        self.poll()

    async def close(self) -> None:
        """Nothing is held open."""

    def poll(self) -> None:
        """Look once. Small local files only: a read takes microseconds, so it doesn't leave the event loop."""
        try:
            found = self._path.stat()
        except OSError as error:
            if not self._complained:
                log.warning("fleet file %s: %s; waiting for it", self._path, error.strerror)
                self._complained = True
            return
        stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        if stamp == self._seen:
            return
        self._seen, self._complained = stamp, False
        try:
            self._apply(self._read(found.st_size))
        except ConfigError as error:
            log.error("%s The last good fleet stays in force.", error)  # noqa: TRY400 - a message, not a bug
            self._refused()

    def _read(self, size: int) -> wire.Fleet:
        source = f"fleet file {self._path}"
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"{source} has {size} bytes; at most {MAX_FILE_BYTES} are allowed.")
        try:
            document = self._path.read_bytes()
        except OSError as error:
            raise ConfigError(f"{source} can't be read: {error.strerror}.") from None
        fleet = wire.decode(wire.Fleet, document, source=source)
        twice = [name for name, count in Counter(engine.name for engine in fleet.engines).items() if count > 1]
        if twice:
            raise ConfigError(f"{source} names these engines more than once: {', '.join(twice)}.")
        return fleet

    async def follow(self) -> None:
        """Poll until cancelled."""
        while True:
            self.poll()
            await asyncio.sleep(POLL_SECONDS)
