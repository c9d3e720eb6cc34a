"""Sessions remember their engines for a while; the split of pools follows what came lately."""

from __future__ import annotations

from paceline.policy.routing.fleet import FasterModel, NominalModel
from paceline.policy.routing.pools import FEWEST_REQUESTS, split
from paceline.policy.routing.sessions import Sessions

MODEL = NominalModel()


def test_a_session_s_engines_are_known_until_its_time_is_over() -> None:
    sessions = Sessions(ttl_seconds=10)
    sessions.note("s", ["a", "b"], 0)
    assert sessions.engines("s", None, 10) == {"a", "b"}
    assert sessions.engines("s", None, 10.1) == set()
    sessions.expire(10.1)
    assert len(sessions) == 0


def test_a_sub_agent_begins_where_its_parent_is_and_then_has_engines_of_its_own() -> None:
    sessions = Sessions(ttl_seconds=10)
    sessions.note("parent", ["a"], 0)
    assert sessions.engines("child", "parent", 1) == {"a"}
    sessions.note("child", ["b"], 1)
    assert sessions.engines("child", "parent", 2) == {"b"}
    assert sessions.engines(None, "parent", 2) == {"a"}
    assert sessions.engines(None, None, 2) == set()


def test_no_more_sessions_are_remembered_than_there_is_room_for() -> None:
    sessions = Sessions(ttl_seconds=10, max_sessions=2)
    for name in ("a", "b", "a", "c"):
        sessions.note(name, [name], 0)
    assert [bool(sessions.engines(name, None, 0)) for name in "abc"] == [True, False, True]


def test_the_longest_tenth_of_the_prompts_is_cold_and_gets_engines_by_its_work() -> None:
    found = split([100.0, 1000.0, 10_000.0], [500, 400, 100, 0], MODEL)
    assert found is not None
    assert found.cold_tokens == 1001
    cold, total = 100 * MODEL.prefill_seconds(5500), 500 * MODEL.prefill_seconds(50) + 400 * MODEL.prefill_seconds(550)
    assert found.cold_share == cold / (cold + total)


def test_without_enough_requests_or_without_long_ones_nothing_is_split() -> None:
    assert split([100.0, 1000.0], [FEWEST_REQUESTS - 1, 0, 0], MODEL) is None
    assert split([100.0, 1000.0], [0, 1000, 0], MODEL) is None
    assert split([100.0, 1000.0], [0, 0, 1000], MODEL) is None


def test_faster_engines_take_less_time_for_the_same() -> None:
    fast = FasterModel(MODEL, 4)
    assert fast.prefill_seconds(1000) == MODEL.prefill_seconds(1000) / 4
    assert fast.step_seconds(3, 100) == MODEL.step_seconds(3, 100) / 4
    assert fast.transfer_seconds(100) == MODEL.transfer_seconds(100) / 4
    assert fast.kv_capacity_tokens == MODEL.kv_capacity_tokens
