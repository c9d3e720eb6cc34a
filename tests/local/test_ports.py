"""Free ports for local pods, and a clear word when the endpoint's port is taken."""

import random
import socket
from collections.abc import Iterator

import pytest

from paceline.errors import LocalRuntimeError
from paceline.local.ports import FIRST, LAST, PortAllocator, can_bind, require_free

HOST = "127.0.0.1"


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen()
        yield server.getsockname()[1]


def test_ports_are_below_those_of_outgoing_connections() -> None:
    ports = PortAllocator(HOST, random.Random(1))
    assert all(FIRST <= ports.take() <= LAST for _ in range(50))


def test_no_port_is_handed_out_twice_until_it_is_released() -> None:
    ports = PortAllocator(HOST, random.Random(1))
    taken = [ports.take(3) for _ in range(100)]
    held = [port for first in taken for port in range(first, first + 3)]
    assert len(held) == len(set(held))
    ports.release(taken[0], 3)
    again = PortAllocator(HOST, random.Random(1))
    assert again.take(3) == taken[0]


def test_a_port_in_use_is_passed_over(listener: int) -> None:
    class Stuck(random.Random):
        def __init__(self) -> None:
            super().__init__()
            self.answers = [listener, FIRST]

        def randint(self, a: int, b: int) -> int:
            return self.answers.pop(0)

    assert PortAllocator(HOST, Stuck()).take() == FIRST


def test_running_out_of_ports_is_an_error() -> None:
    class Stuck(random.Random):
        def randint(self, a: int, b: int) -> int:
            return FIRST

    ports = PortAllocator(HOST, Stuck())
    ports.take()
    with pytest.raises(LocalRuntimeError, match="No 1 free TCP ports in a row"):
        ports.take()


def test_a_port_in_use_is_named_with_the_flag_that_changes_it(listener: int) -> None:
    assert not can_bind(HOST, listener)
    with pytest.raises(LocalRuntimeError, match=rf"Port {listener} on 127\.0\.0\.1 is in use\. .* with --port\."):
        require_free(HOST, listener, "--port")


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(LocalRuntimeError, match=r"Can't listen on 192\.0\.2\.1:8000: .*--port"):
        require_free("192.0.2.1", 8000, "--port")
