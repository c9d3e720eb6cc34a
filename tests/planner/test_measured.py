"""What the planner learns of how long changes take, and which engines are between two roles."""

from __future__ import annotations

from paceline.api.wire import EngineState, Role
from paceline.planner.measured import LEAST_CHANGES, EngineFact, EngineMemory
from paceline.policy.scaling.observation import Measured

P, D = Role.PREFILL, Role.DECODE


def test_changes_of_role_that_wait_for_the_work_of_the_old_one_are_measured() -> None:
    memory = EngineMemory()
    now = 0.0
    for number in range(LEAST_CHANGES):
        before, after = (D, P) if number % 2 == 0 else (P, D)
        memory.look([EngineFact("e", before, EngineState.READY, 0.0)], now)
        (seen,) = memory.look([EngineFact("e", after, EngineState.READY, 0.0, changing=True)], now + 10)
        assert seen.changing
        assert memory.measured == Measured()
        (seen,) = memory.look([EngineFact("e", after, EngineState.READY, 0.0)], now + 50)
        assert not seen.changing
        now += 100
    assert memory.measured.flip_seconds == 40.0
