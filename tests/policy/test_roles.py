"""Assignment of roles: what is wanted is reached, with as few changes as that takes, and then nothing moves."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.api.wire import Role
from paceline.policy.roles import EngineRole, RoleChange, assign_roles, quotas

P, D, B = Role.PREFILL, Role.DECODE, Role.BOTH

roles = st.sampled_from([None, P, D, B])
fleets = st.lists(st.tuples(roles, st.integers(0, 5)), max_size=7).map(
    lambda items: [EngineRole(f"e{n}", role, load) for n, (role, load) in enumerate(items)]
)
counts = st.integers(0, 4)
wanted_counts = st.fixed_dictionaries({P: counts, D: counts})


def after(engines: list[EngineRole], wanted: dict[Role, int]) -> list[EngineRole]:
    changed = {change.engine: change.after for change in assign_roles(engines, wanted)}
    return [EngineRole(e.name, changed.get(e.name, e.role), e.load) for e in engines]


def count(engines: list[EngineRole]) -> dict[Role, int]:
    return {role: sum(engine.role is role for engine in engines) for role in Role}


@given(fleets, wanted_counts)
def test_with_enough_engines_every_role_has_what_is_wanted(engines: list[EngineRole], wanted: dict[Role, int]) -> None:
    if len(engines) < sum(wanted.values()):
        return
    reached = count(after(engines, wanted))
    assert all(reached[role] >= number for role, number in wanted.items())


@given(fleets, wanted_counts)
def test_an_assigned_fleet_needs_no_further_change(engines: list[EngineRole], wanted: dict[Role, int]) -> None:
    assert assign_roles(after(engines, wanted), wanted) == ()


@given(fleets, wanted_counts, st.randoms(use_true_random=False))
def test_the_order_in_which_engines_are_listed_does_not_matter(
    engines: list[EngineRole], wanted: dict[Role, int], rng: object
) -> None:
    shuffled = list(engines)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign_roles(shuffled, wanted) == assign_roles(engines, wanted)


@given(fleets, wanted_counts)
def test_no_smaller_set_of_changes_reaches_the_quotas(engines: list[EngineRole], wanted: dict[Role, int]) -> None:
    asked = [role for role in (P, D) if wanted[role]]
    if not asked or len(engines) < len(asked):
        return
    owed = quotas(len(engines), wanted)
    changes = assign_roles(engines, wanted)
    # An engine without a role, or of a role that nobody wants any more beyond the counts, is not part of the minimum.
    labelled = [change for change in changes if change.before in owed]
    held = {role: sum(engine.role is role for engine in engines) for role in owed}
    missing = sum(max(0, owed[role] - held[role]) for role in owed)
    unlabelled = sum(engine.role not in owed for engine in engines)
    assert len(labelled) == max(0, missing - unlabelled)


@given(st.integers(2, 12), st.integers(1, 6), st.integers(1, 6))
def test_one_more_engine_never_takes_from_a_role(engines: int, prefill: int, decode: int) -> None:
    wanted = {P: prefill, D: decode}
    fewer, more = quotas(engines, wanted), quotas(engines + 1, wanted)
    assert all(more[role] >= fewer[role] for role in wanted)
    assert sum(fewer.values()) == min(engines, prefill + decode)


@given(st.integers(1, 4), st.integers(1, 4))
def test_engines_that_become_ready_one_by_one_change_role_at_most_once_after_both(prefill: int, decode: int) -> None:
    wanted = {P: prefill, D: decode}
    fleet: list[EngineRole] = []
    flips = 0
    for number in range(prefill + decode):
        fleet.append(EngineRole(f"e{number}", None))
        flips += sum(change.before is not None for change in assign_roles(fleet, wanted))
        fleet = after(fleet, wanted)
    assert flips <= 1


def test_a_single_engine_serves_both_until_a_second_is_ready() -> None:
    wanted = {P: 2, D: 2}
    assert assign_roles([EngineRole("a", None)], wanted) == (RoleChange("a", None, B),)
    pair = [EngineRole("a", B), EngineRole("b", None)]
    assert {change.after for change in assign_roles(pair, wanted)} == {P, D}


def test_the_engine_with_least_to_lose_changes_role() -> None:
    engines = [EngineRole("a", P, 9), EngineRole("b", P, 2), EngineRole("c", P, 5)]
    assert assign_roles(engines, {P: 2, D: 1}) == (RoleChange("b", P, D),)


def test_an_engine_without_a_role_is_taken_before_one_that_works() -> None:
    engines = [EngineRole("a", P, 0), EngineRole("b", P, 0), EngineRole("c", None, 0)]
    assert assign_roles(engines, {P: 1, D: 1}) == (RoleChange("c", None, D),)


def test_engines_beyond_what_is_wanted_keep_their_role() -> None:
    engines = [EngineRole(name, role) for name, role in zip("abcd", [P, P, P, D], strict=True)]
    assert assign_roles(engines, {P: 1, D: 1}) == ()


def test_a_killed_prefill_engine_is_replaced_by_its_successor_without_another_change() -> None:
    engines = [EngineRole("a", P), EngineRole("b", None), EngineRole("c", D), EngineRole("d", D)]
    assert assign_roles(engines, {P: 2, D: 2}) == (RoleChange("b", None, P),)


def test_aggregated_engines_all_serve_both() -> None:
    engines = [EngineRole("a", None), EngineRole("b", P)]
    assert {change.after for change in assign_roles(engines, {B: 2})} == {B}


def test_nothing_wanted_or_nothing_ready_changes_nothing() -> None:
    assert assign_roles([EngineRole("a", P)], {P: 0, D: 0}) == ()
    assert assign_roles([], {P: 1, D: 1}) == ()


@pytest.mark.parametrize("names", [["a", "a"]])
def test_two_engines_of_one_name_are_a_programming_error(names: list[str]) -> None:
    with pytest.raises(ValueError, match="unique"):
        assign_roles([EngineRole(name, None) for name in names], {P: 1})


def test_a_negative_count_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="negative"):
        assign_roles([EngineRole("a", None)], {P: -1})


def test_every_split_of_a_small_fleet_is_reachable_from_every_other() -> None:
    for before, wanted in itertools.product(range(1, 5), range(1, 5)):
        fleet = [EngineRole(f"e{n}", P if n < before else D) for n in range(5)]
        reached = count(after(fleet, {P: wanted, D: 5 - wanted}))
        assert (reached[P], reached[D]) == (wanted, 5 - wanted)
