"""Requests go where they cost least, only to engines that may take them, and the same inputs give the same answer."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.api.wire import Role
from paceline.policy.routing.cost import ADAPTER_SECONDS, OTHER_ZONE, SAME_NODE, WASTE_WEIGHT, RequestView, Settings
from paceline.policy.routing.fleet import EngineModel, EngineView, NominalModel
from paceline.policy.routing.placement import (
    NEAR_TIE,
    Placement,
    Prefill,
    choose,
    default_local_prefill_tokens,
    has_room,
    prefill_room_in,
)
from paceline.policy.scaling.profiles import get_profile, known_profiles

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
    owed_seconds=st.floats(0, 1),
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
    assert (prefill is not None) == (placement.reason in (Prefill.REMOTE, Prefill.STREAMS_FIRST))
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
    full = [msgspec.structs.replace(one, running=99) for one in fleet]
    alone = [
        choose(LONG, [*full[:place], one, *full[place + 1 :]], SETTINGS, MODEL, random)
        for place, one in enumerate(fleet)
    ]
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


class TestOwed:
    """Streams of a decode engine that are owed steps without prompts."""

    SHORT = RequestView(prompt_tokens=100)
    REMOTE = MODEL.prefill_seconds(100) + MODEL.transfer_seconds(100)

    def test_a_prefill_engine_that_is_done_sooner_computes_a_short_prompt(self) -> None:
        helper = engine("p", Role.PREFILL)
        just = place(self.SHORT, engine("d", owed_seconds=self.REMOTE - 1e-6), helper)
        assert (just.prefill, just.reason) == (None, Prefill.SHORT)
        long_after = place(self.SHORT, engine("d", owed_seconds=self.REMOTE + 1e-6), helper)
        assert (long_after.prefill, long_after.reason) == (helper, Prefill.STREAMS_FIRST)

    def test_a_prefill_engine_with_a_backlog_does_not(self) -> None:
        helper = engine("p", Role.PREFILL, prefill_backlog_seconds=1.0)
        assert place(self.SHORT, engine("d", owed_seconds=0.9), helper).reason is Prefill.SHORT

    def test_a_long_prompt_that_the_decode_engine_holds_is_not_computed_again_elsewhere(self) -> None:
        held = RequestView(prompt_tokens=50_000, match={"d": 49_950})
        assert place(held, engine("d", owed_seconds=1.0), engine("p", Role.PREFILL)).reason is Prefill.SHORT

    def test_without_another_engine_for_it_there_is_no_choice(self) -> None:
        other = engine("p", Role.PREFILL, revision="2")
        assert place(self.SHORT, engine("d", owed_seconds=1.0), other).reason is Prefill.SHORT

    @pytest.mark.parametrize("names", ["ab", "ba"])
    def test_an_engine_whose_streams_are_owed_nothing_is_cheaper(self, names: str) -> None:
        owing, free = (engine(name, owed_seconds=owed) for name, owed in zip(names, (1.0, 0.0), strict=True))
        helper = engine("p", Role.PREFILL, prefill_backlog_seconds=0.05)
        placement = place(self.SHORT, *sorted((owing, free), key=lambda one: one.name), helper)
        assert (placement.decode, placement.reason) == (free, Prefill.SHORT)


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


@pytest.mark.parametrize("name", sorted(known_profiles()))
def test_the_default_threshold_is_where_a_transfer_starts_to_pay(name: str) -> None:
    profile = known_profiles()[name]
    tokens = default_local_prefill_tokens(profile)
    assert 0 <= tokens <= 4096
    if 0 < tokens < 4096:
        assert profile.prefill_work(tokens, 0) <= profile.transfer_seconds(tokens) * 1.01
        assert profile.prefill_work(tokens + 2, 0) > profile.transfer_seconds(tokens + 2) * 0.99


def test_a_prefix_is_not_traded_for_a_near_tie_of_loads() -> None:
    request = RequestView(prompt_tokens=5000, match={"holder": 4950})
    engines = [engine(name, running=3, context_tokens=9000) for name in ("a", "b", "holder", "c", "d")]
    engines += [engine(f"p{number}", Role.PREFILL) for number in range(4)]
    assert {place(request, *engines, random=step / 50).decode.name for step in range(50)} == {"holder"}


def test_a_follow_up_turn_stays_where_its_answer_was_written_unless_that_engine_is_overloaded() -> None:
    request = RequestView(prompt_tokens=5000, match={"d1": 4950})
    others = [engine("d2"), engine("p", Role.PREFILL)]
    assert place(request, engine("d1", running=2), *others).decode.name == "d1"
    assert place(request, engine("d1", running=2, kv_usage=0.99), *others).decode.name == "d2"


def test_computing_again_what_another_engine_holds_is_worth_some_waiting() -> None:
    request = RequestView(prompt_tokens=5000, match={"p1": 4000})
    saved = MODEL.prefill_seconds(5000) - MODEL.prefill_seconds(1000, 4000)
    for backlog, chosen in ((1.5 * saved, "p1"), ((WASTE_WEIGHT + 1.5) * saved, "p2")):
        busy = engine("p1", Role.PREFILL, prefill_backlog_seconds=backlog)
        placement = place(request, engine("d"), busy, engine("p2", Role.PREFILL))
        assert placement.prefill is not None
        assert placement.prefill.name == chosen


def test_only_what_the_decode_engine_lacks_has_to_travel() -> None:
    request = RequestView(prompt_tokens=5000, match={"d": 3000})
    placement = place(request, engine("d"), engine("p", Role.PREFILL))
    assert placement.reason is Prefill.REMOTE
    assert placement.prefill_seconds == pytest.approx(MODEL.prefill_seconds(5000) + MODEL.transfer_seconds(2000))


def test_without_weight_for_caches_or_loads_they_don_t_count() -> None:
    request = RequestView(prompt_tokens=5000, match={"holder": 4900})
    busy = engine("holder", Role.PREFILL, prefill_backlog_seconds=3.0)
    engines = [engine("d"), busy, engine("free", Role.PREFILL)]
    blind = Settings(disaggregated=True, local_prefill_tokens=100, max_running_per_engine=8, load_weight=0)
    bold = Settings(disaggregated=True, local_prefill_tokens=100, max_running_per_engine=8, cache_weight=0)
    assert place(request, *engines, settings=blind).prefill == busy
    relaxed = msgspec.structs.replace(busy, prefill_backlog_seconds=0.1)
    assert place(request, engine("d"), relaxed, engine("free", Role.PREFILL)).prefill == relaxed
    assert place(request, engine("d"), relaxed, engine("free", Role.PREFILL), settings=bold).prefill != relaxed


def test_an_engine_of_the_session_wins_near_ties_only() -> None:
    request = RequestView(prompt_tokens=50, prefer=frozenset({"c"}))
    engines = [engine(name) for name in "abcd"]
    assert {place(request, *engines, random=step / 50).decode.name for step in range(50)} == {"c"}
    engines[2] = engine("c", running=7, context_tokens=90_000)
    assert place(request, *engines).decode.name != "c"


def test_an_adapter_draws_its_requests_to_where_it_is_loaded() -> None:
    request = RequestView(prompt_tokens=50, adapter="x")
    loaded = msgspec.structs.replace(engine("loaded", running=2), adapters=frozenset({"x"}))
    other = msgspec.structs.replace(engine("other"), adapters=frozenset({"y"}))
    assert place(request, other, loaded).decode.name == "loaded"
    assert place(RequestView(prompt_tokens=50), other, loaded).decode.name == "other"
    assert place(request, engine("silent"), other).decode.name == "silent", "nothing is held against an engine unheard"
    assert ADAPTER_SECONDS > 0


def test_prefill_is_done_near_the_decode_engine() -> None:
    here, there = engine("d", zone="z1", node="n1"), engine("far", Role.PREFILL, zone="z2", node="n9")
    near = engine("near", Role.PREFILL, zone="z1", node="n2", prefill_backlog_seconds=0.001)
    same = engine("same", Role.PREFILL, zone="z1", node="n1", prefill_backlog_seconds=0.002)
    transfer = MODEL.transfer_seconds(5000)
    assert place(LONG, here, there, near).prefill == near
    assert place(LONG, here, there, near, same).prefill == same
    alone = place(LONG, here, there)
    assert alone.prefill_seconds == pytest.approx(MODEL.prefill_seconds(5000) + OTHER_ZONE * transfer)
    assert SAME_NODE < 1 < OTHER_ZONE


def test_a_prefill_engine_has_room_a_moment_before_it_is_done() -> None:
    ahead = Settings(disaggregated=True, local_prefill_tokens=0, max_running_per_engine=8, prefill_ahead_seconds=0.5)
    busy = engine("p1", Role.PREFILL, prefill_backlog_seconds=0.75)
    idle, long = engine("p2", Role.PREFILL), engine("p3", Role.PREFILL, prefill_backlog_seconds=9.0)
    assert prefill_room_in([engine("d"), busy, long], ahead) == 0.25
    assert prefill_room_in([engine("d"), busy, idle], ahead) == 0
    assert prefill_room_in([engine("d"), busy, engine("p4", Role.PREFILL, usable=False)], ahead) == 0.25
    assert prefill_room_in([engine("d")], ahead) == 0, "there is nothing to wait for"


class TestColdAndWarm:
    SPLIT = Settings(
        disaggregated=True, local_prefill_tokens=0, max_running_per_engine=8, cold_tokens=2000, cold_share=0.25,
        split_seconds=1.0,
    )  # fmt: skip

    def fleet(self, *backlogs: float) -> list[EngineView]:
        names = [f"p{number}" for number in range(len(backlogs))]
        loads = zip(names, backlogs, strict=True)
        return [engine("d"), *(engine(name, Role.PREFILL, prefill_backlog_seconds=load) for name, load in loads)]

    def prefill(self, tokens: int, *backlogs: float, random: float = 0.0) -> str:
        request = RequestView(prompt_tokens=tokens)
        placement = place(request, *self.fleet(*backlogs), settings=self.SPLIT, random=random)
        assert placement.prefill is not None
        return placement.prefill.name

    def test_cold_prompts_have_engines_of_their_own_and_warm_ones_the_rest(self) -> None:
        draws = [step / 100 for step in range(100)]
        assert {self.prefill(2000, 0, 0, 0, 0, random=draw) for draw in draws} == {"p0"}
        assert {self.prefill(1999, 0, 0, 0, 0, random=draw) for draw in draws} == {"p1", "p2", "p3"}

    def test_no_request_waits_longer_for_its_own_pool_than_the_bound(self) -> None:
        assert self.prefill(2000, 0.9, 0, 0, 0) == "p0"
        assert self.prefill(2000, 1.1, 0, 0, 0) != "p0"
        assert self.prefill(1999, 0, 1.1, 1.1, 1.1) == "p0"

    def test_one_engine_is_not_split(self) -> None:
        assert self.prefill(50, 0.5) == self.prefill(5000, 0.5) == "p0"
