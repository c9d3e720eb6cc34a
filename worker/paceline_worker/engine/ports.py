"""Checks an engine's ports before it is started: vLLM finds a taken port out only after it has loaded the model."""

from __future__ import annotations

import errno
import socket

from paceline.api import wire
from paceline.errors import EngineError


def needed_ports(config: wire.EngineConfig) -> dict[int, str]:
    """Ports that the child of this pod will bind -> field that sets them. Rank r of a data-parallel engine adds r to
    its base.
    """
    ports = config.ports
    ranks = max(1, config.parallelism.data // config.parallelism.nodes)
    found = {ports.api: "ports.api"}
    bases = {}
    if config.connector is wire.ConnectorKind.NIXL:
        bases["ports.kvSideChannel"] = ports.kv_side_channel
    if config.kv_events:
        bases["ports.kvEvents"] = ports.kv_events
        bases["ports.kvReplay"] = ports.kv_replay
    for field, base in bases.items():
        for rank in range(ranks):
            found[base + rank] = field
    return found


def check_ports(config: wire.EngineConfig, host: str) -> None:
    """Raises EngineError for a port that is taken, or an address that is not this machine's."""
    for port, field in needed_ports(config).items():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            # Connections of an earlier engine that linger in TIME_WAIT are no reason to refuse.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    message = f"Port {port} ({field}) is taken by another process on {host}: choose another one."
                else:
                    message = f"Can't listen on {host}:{port} ({field}): {error.strerror}."
                raise EngineError(message) from None
