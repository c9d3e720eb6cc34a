"""TLS contexts from files that may change while they are in use: Secrets that the kubelet mounts and renews.

The router's server and its pool, the engine worker's client and the emulator take theirs from here.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from paceline.errors import ConfigError

log = logging.getLogger(__name__)

CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
AUTHORITY: Final = "ca.crt"
"""Names of the files, as Secrets of type kubernetes.io/tls have them."""

POLL_SECONDS: Final = 1.0

Stamps = tuple[tuple[int, int, int] | None, ...]


class Renewed:
    """A context that is made anew when one of its files has changed. What can't be used leaves the last one in force.

    Raises ConfigError when there is none to begin with.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext], files: Sequence[Path]) -> None:
        self._make = make
        self._files = files
        self._stamps = self._look()
        self._context = _made(make, files)
        self.changes = 0
        """Times that new files were taken into use."""
        self.refused = 0
        """Times that they could not be used."""

    def get(self) -> ssl.SSLContext:
        """The context for a new connection. A look at the files costs some microseconds."""
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._context = _made(self._make, self._files)
            except ConfigError as error:
                self.refused += 1
                log.error("%s What was read last stays in force.", error)  # noqa: TRY400 - a message, not a bug
            else:
                self.changes += 1
                log.info("new certificates are in force: %s", ", ".join(map(str, self._files)))
        return self._context

    def _look(self) -> Stamps:
        return tuple(map(_stamp, self._files))


class Uses(Protocol):
    """What takes new certificates into use: a server."""

    async def use(self, tls: ssl.SSLContext) -> None:
        """From now on."""
        ...


async def follow(contexts: Renewed, server: Uses) -> None:
    """Have ``server`` use what the files hold, until cancelled."""
    used = contexts.get()
    while True:
        await asyncio.sleep(POLL_SECONDS)
        if (context := contexts.get()) is not used:
            try:
                await server.use(context)
            except OSError as error:  # no descriptor is free, say: the next look tries again
                log.warning("new certificates are not in force yet: %s", error.strerror or error)
            else:
                used = context


def server_files(certificate: Path, key: Path, client_authority: Path | None) -> Renewed:
    """For a server. With an authority, clients need a certificate of it."""

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        _load_pair(context, certificate, key)
        if client_authority is not None:
            context.load_verify_locations(client_authority)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    return Renewed(make, [certificate, key, *([] if client_authority is None else [client_authority])])


def client_files(authority: Path, pair: tuple[Path, Path] | None) -> Renewed:
    """For a client that trusts servers of one authority alone; ``pair``: its own certificate and key."""

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if pair is not None:
            _load_pair(context, *pair)
        return context

    return Renewed(make, [authority, *(pair or ())])


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    # Without a password OpenSSL would ask for one on the terminal.
    context.load_cert_chain(certificate, key, password=lambda: "")


def _made(make: Callable[[], ssl.SSLContext], files: Sequence[Path]) -> ssl.SSLContext:
    try:
        return make()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ConfigError(f"TLS: {' and '.join(map(str, files))} can't be used: {why}.") from None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
