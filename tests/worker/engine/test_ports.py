"""Ports are checked before a model is loaded for minutes."""

from __future__ import annotations

import socket

import pytest

from paceline.api import wire
from paceline.errors import EngineError
from paceline_worker.engine.ports import check_ports, needed_ports
from tests.processes import free_ports
from tests.worker.engine.support import engine_config


def test_every_data_parallel_rank_of_the_pod_has_ports_of_its_own():
    ports = wire.EnginePorts(api=8000, kv_side_channel=5600, kv_events=20080, kv_replay=21080)
    config = engine_config(ports=ports, parallelism=wire.Parallelism(data=4, nodes=2))
    assert sorted(needed_ports(config)) == [5600, 5601, 8000, 20080, 20081, 21080, 21081]


def test_what_is_turned_off_needs_no_port():
    config = engine_config(connector=wire.ConnectorKind.NONE, kv_events=False)
    assert needed_ports(config) == {8000: "ports.api"}


def test_a_taken_port_is_named_with_its_field():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        api, side, replay = free_ports(3)
        ports = wire.EnginePorts(api=api, kv_side_channel=side, kv_events=port, kv_replay=replay)
        with pytest.raises(EngineError, match=rf"Port {port} \(ports\.kvEvents\) is taken by another process"):
            check_ports(engine_config(ports=ports), "127.0.0.1")


def test_an_address_of_another_machine_is_refused():
    api, side, events, replay = free_ports(4)
    ports = wire.EnginePorts(api=api, kv_side_channel=side, kv_events=events, kv_replay=replay)
    with pytest.raises(EngineError, match=r"Can't listen on 192\.0\.2\.1"):
        check_ports(engine_config(ports=ports), "192.0.2.1")
