"""The states of an engine."""

from __future__ import annotations

import pytest

from paceline_worker.engine.status import EngineStatus, State


def test_only_a_ready_and_healthy_engine_gets_work():
    status = EngineStatus()
    assert not status.ready
    status.move(State.READY, "serving")
    assert status.ready
    status.healthy = False
    assert not status.ready


@pytest.mark.parametrize("last", [State.DRAINING, State.STOPPED, State.FAILED])
def test_an_engine_that_is_going_never_becomes_ready_again(last: State):
    status = EngineStatus()
    status.move(last, "going")
    status.move(State.READY, "serving")
    assert (status.state, status.reason) == (last, "going")


def test_what_failed_first_stays_the_reason():
    status = EngineStatus()
    status.move(State.FAILED, "the core ended")
    status.move(State.STOPPED, "stopped")
    status.move(State.FAILED, "something else")
    assert (status.state, status.reason) == (State.FAILED, "the core ended")


def test_every_start_has_an_id_of_its_own():
    assert EngineStatus().start_id != EngineStatus().start_id
