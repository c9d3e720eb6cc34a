"""TCP ports for local pods. Called by the kubelet before each start of a process.

Ports are taken from below the range that the kernel hands out to outgoing connections: there a port that was free at
the check could be an outgoing connection's own a moment later. What is in use anyway costs that start only, because
every restart asks anew.
"""

from __future__ import annotations

import errno
import random
import socket
from typing import Final

from paceline.errors import LocalRuntimeError

FIRST: Final = 15_000
LAST: Final = 31_999
"""Linux hands out 32768 and above unless told otherwise."""
ATTEMPTS: Final = 2_000


class PortAllocator:
    """Hands out free ports on one address, never one that a pod of this cluster holds."""

    def __init__(self, host: str, rng: random.Random) -> None:
        self._host = host
        self._rng = rng
        self._held: set[int] = set()

    def take(self, count: int = 1) -> int:
        """Hold ``count`` consecutive free ports and return the first. Raises LocalRuntimeError if there are none."""
        for _ in range(ATTEMPTS):
            first = self._rng.randint(FIRST, LAST - count + 1)
            run = range(first, first + count)
            if self._held.isdisjoint(run) and all(can_bind(self._host, port) for port in run):
                self._held.update(run)
                return first
        raise LocalRuntimeError(f"No {count} free TCP ports in a row between {FIRST} and {LAST} on {self._host}.")

    def release(self, first: int, count: int = 1) -> None:
        """Give ports back."""
        self._held.difference_update(range(first, first + count))


def can_bind(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    return _bind_error(host, port) is None


def require_free(host: str, port: int, flag: str) -> None:
    """Raise LocalRuntimeError that names ``flag`` when a server could not listen on ``port``."""
    error = _bind_error(host, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise LocalRuntimeError(f"Port {port} on {host} is in use. Stop what uses it, or choose another with {flag}.")
    raise LocalRuntimeError(f"Can't listen on {host}:{port}: {error.strerror}. Choose another port with {flag}.")


def _bind_error(host: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a previous run that linger in TIME_WAIT don't count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None
