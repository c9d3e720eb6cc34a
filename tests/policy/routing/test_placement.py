"""Requests go where they cost least, only to engines that may take them, and the same inputs give the same answer."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.api.wire import Role
from paceline.policy.routing.fleet import EngineModel, EngineView, NominalModel
from paceline.policy.routing.placement import (
    NEAR_TIE,
    Placement,
    Prefill,
    RequestView,
    Settings,
    choose,
    default_local_prefill_tokens,
    has_room,
)
from paceline.policy.scaling.profiles import PROFILES, get_profile

MODEL = NominalModel()
PROFILE = get_profile("qwen3-32b-h200-tp2")
SETTINGS = Settings(disaggregated=True, local_prefill_tokens=100, max_running_per_engine=8)
LONG = RequestView(prompt_tokens=5000)

views = st.builds(
    EngineView,
    name=st.integers(0, 9).map(str),
    role=st.sampled_from(Role),
    revision=st.sampled_from(["r1", "r2"]),
    usable=st.booleans(),
    running=st.integers(0, 10),
    context_tokens=st.integers(0, 2_000_000),
    prefill_backlog_seconds=st.floats(0, 100),
    kv_usage=st.floats(0, 1),
)
fleets = st.lists(views, max_size=8, unique_by=lambda engine: engine.name)
requests = st.builds(
    RequestView,
    prompt_tokens=st.integers(0, 100_000),
    output_tokens=st.integers(1, 4096),
    transferable=st.booleans(),
    avoid=st.frozensets(st.sampled_from(["0", "1", "2"])),
)
settings_ = st.builds(
    Settings,
    disaggregated=st.booleans(),
    local_prefill_tokens=st.integers(0, 1000),
    max_running_per_engine=st.integers(1, 10),
)
models = st.sampled_from([MODEL, PROFILE])
randoms = st.floats(0, 1, exclude_max=True)


def engine(name: str, role: Role = Role.DECODE, **changes: float | bool | str) -> EngineView:
    return EngineView(name=name, role=role, **changes)  # type: ignore[arg-type]


def place(
    request: RequestView,
    *engines: EngineView,
    settings: Settings = SETTINGS,
    model: EngineModel = MODEL,
    random: float = 0,
) -> Placement:
    placement = choose(request, engines, settings, model, random)
    assert placement is not None
    return placement


@given(requests, fleets, settings_, models, randoms)
def test_only_usable_engines_with_room_and_of_one_revision_are_chosen(
    request: RequestView, fleet: list[EngineView], settings: Settings, model: EngineModel, random: float
) -> None:
    placement = choose(request, fleet, settings, model, random)
    assert (placement is not None) == has_room(fleet, settings)
    if placement is None:
        return
    decode, prefill = placement.decode, placement.prefill
    assert decode.usable
    assert decode.running < settings.max_running_per_engine
    deciders = [one for one in fleet if one.usable and one.role is not Role.PREFILL]
    if settings.disaggregated and deciders:
        assert decode.role is not Role.PREFILL
    assert (prefill is not None) == (placement.reason is Prefill.REMOTE)
    if prefill is not None:
        assert prefill.usable
        assert prefill.role is not Role.DECODE
        assert prefill.revision == decode.revision
        assert prefill.name != decode.name
        assert settings.disaggregated
        assert request.transferable
        assert request.prompt_tokens > settings.local_prefill_tokens


@given(requests, fleets, settings_, models, randoms)
def test_the_same_inputs_give_the_same_placement(
    request: RequestView, fleet: list[EngineView], settings: Settings, model: EngineModel, random: float
) -> None:
    assert choose(request, fleet, settings, model, random) == choose(request, fleet, settings, model, random)


@given(requests, fleets, settings_, models, randoms)
def test_the_order_in_which_engines_are_listed_only_matters_in_near_ties(
    request: RequestView, fleet: list[EngineView], settings: Settings, model: EngineModel, random: float
) -> None:
    one = choose(request, fleet, settings, model, random)
    other = choose(request, fleet[::-1], settings, model, random)
    if one is not None and other is not None:
        low, high = sorted((one.decode_seconds, other.decode_seconds))
        assert high <= low * (1 + NEAR_TIE)


@given(fleets, randoms)
def test_the_cost_paid_is_close_to_the_lowest(fleet: list[EngineView], random: float) -> None:
    chosen = choose(LONG, fleet, SETTINGS, MODEL, random)
    if chosen is None:
        return
    alone = [choose(LONG, [one], SETTINGS, MODEL, random) for one in fleet if one.decodes or not chosen.decode.decodes]
    lowest = min(one.decode_seconds for one in alone if one is not None)
    assert chosen.decode_seconds <= lowest * (1 + NEAR_TIE)


def test_a_less_loaded_decode_engine_is_taken() -> None:
    busy = engine("busy", running=7, context_tokens=90_000)
    assert place(LONG, busy, engine("free")).decode.name == "free"


def test_kv_pressure_weighs_more_than_a_small_batch() -> None:
    full = engine("full", running=1, kv_usage=0.97)
    assert place(LONG, full, engine("roomy", running=5, kv_usage=0.3)).decode.name == "roomy"


def test_context_that_would_not_fit_counts_as_pressure_before_the_engine_reports_it() -> None:
    capacity = PROFILE.kv_capacity_tokens
    filling = engine("filling", running=2, context_tokens=int(capacity * 0.97))
    assert place(LONG, filling, engine("other", running=5), model=PROFILE).decode.name == "other"


def test_the_prefill_engine_with_the_shorter_backlog_is_taken() -> None:
    placement = place(
        LONG,
        engine("d"),
        engine("p1", Role.PREFILL, prefill_backlog_seconds=1.0),
        engine("p2", Role.PREFILL, prefill_backlog_seconds=0.2),
    )
    assert placement.prefill is not None
    assert placement.prefill.name == "p2"
    assert placement.prefill_seconds == pytest.approx(0.2 + MODEL.prefill_seconds(5000) + MODEL.transfer_seconds(5000))


def test_a_prefix_that_an_engine_holds_makes_it_cheaper() -> None:
    request = RequestView(prompt_tokens=5000, match={"p1": 4800})
    placement = place(
        request,
        engine("d"),
        engine("p1", Role.PREFILL, prefill_backlog_seconds=0.1),
        engine("p2", Role.PREFILL),
    )
    assert placement.prefill is not None
    assert placement.prefill.name == "p1"


def test_a_prefix_that_the_decode_engine_holds_makes_a_long_prompt_short() -> None:
    request = RequestView(prompt_tokens=5000, match={"d": 4950})
    assert place(request, engine("d"), engine("p", Role.PREFILL)).reason is Prefill.SHORT


@pytest.mark.parametrize(
    ("request_", "engines", "settings", "reason"),
    [
        (RequestView(prompt_tokens=100), [engine("d"), engine("p", Role.PREFILL)], SETTINGS, Prefill.SHORT),
        (RequestView(prompt_tokens=101), [engine("d"), engine("p", Role.PREFILL)], SETTINGS, Prefill.REMOTE),
        (LONG, [engine("d")], SETTINGS, Prefill.NO_ENGINE),
        (LONG, [engine("d"), engine("p", Role.PREFILL, usable=False)], SETTINGS, Prefill.NO_ENGINE),
        (LONG, [engine("d"), engine("p", Role.PREFILL, revision="2")], SETTINGS, Prefill.NO_ENGINE),
        (
            RequestView(prompt_tokens=5000, transferable=False),
            [engine("d"), engine("p", Role.PREFILL)],
            SETTINGS,
            Prefill.UNSUITED,
        ),
        (
            LONG,
            [engine("d"), engine("p", Role.PREFILL)],
            Settings(disaggregated=False, local_prefill_tokens=0, max_running_per_engine=8),
            Prefill.NOT_DISAGGREGATED,
        ),
        (LONG, [engine("one", Role.BOTH)], SETTINGS, Prefill.NO_ENGINE),
        (LONG, [engine("one", Role.BOTH), engine("two", Role.BOTH)], SETTINGS, Prefill.CHEAPER_HERE),
    ],
)
def test_why_a_prompt_is_computed_where_it_is(
    request_: RequestView, engines: list[EngineView], settings: Settings, reason: Prefill
) -> None:
    assert place(request_, *engines, settings=settings).reason is reason


def test_an_engine_of_both_roles_with_a_backlog_lets_another_prefill() -> None:
    busy = engine("busy", Role.BOTH, prefill_backlog_seconds=5.0)
    full = engine("full", Role.BOTH, running=8)
    placement = place(LONG, busy, full)
    assert placement.decode.name == "busy"
    assert placement.prefill is not None
    assert placement.prefill.name == "full"


def test_without_a_decode_engine_a_prefill_engine_does_everything() -> None:
    placement = place(LONG, engine("p", Role.PREFILL))
    assert (placement.decode.name, placement.prefill) == ("p", None)


def test_full_decode_engines_don_t_push_their_work_onto_prefill_engines() -> None:
    assert choose(LONG, [engine("d", running=8), engine("p", Role.PREFILL)], SETTINGS, MODEL, 0.5) is None


def test_engines_that_failed_the_request_are_avoided_while_there_are_others() -> None:
    request = RequestView(prompt_tokens=10, avoid=frozenset({"a"}))
    assert place(request, engine("a"), engine("b", running=7)).decode.name == "b"
    assert place(request, engine("a")).decode.name == "a"
    assert place(request, engine("a"), engine("b", running=8)).decode.name == "a", "rather than wait"


def test_near_ties_spread_over_all_that_tie_and_the_lower_of_two_wins() -> None:
    engines = [engine(name) for name in "abcd"]
    chosen = Counter(place(LONG, *engines, random=step / 1200).decode.name for step in range(1200))
    assert set(chosen) == set("abcd")
    assert max(chosen.values()) - min(chosen.values()) <= 12
    slightly = [engine("low"), engine("high", running=1)]
    assert {place(LONG, *slightly, random=step / 100).decode.name for step in range(100)} == {"low"}


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_the_default_threshold_is_where_a_transfer_starts_to_pay(name: str) -> None:
    profile = PROFILES[name]
    tokens = default_local_prefill_tokens(profile)
    assert 0 <= tokens <= 4096
    if 0 < tokens < 4096:
        assert profile.prefill_work(tokens, 0) <= profile.transfer_seconds(tokens) * 1.01
        assert profile.prefill_work(tokens + 2, 0) > profile.transfer_seconds(tokens + 2) * 0.99
