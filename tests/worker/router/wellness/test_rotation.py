"""Engines that stand out lose their work and get it back, by mode, share and role."""

from __future__ import annotations

from paceline.api import wire
from paceline.clock import Clock
from paceline.policy.health.output import Answer, OutputHealth, Part
from paceline.policy.health.pace import Pace
from paceline.policy.health.signs import Sign
from paceline.policy.routing.fleet import NominalModel
from paceline_worker.router.fleet import Engine, Fleet
from paceline_worker.router.wellness.listening import Listening
from paceline_worker.router.wellness.rotation import Rotation


class StoppedClock(Clock):
    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0


class Scene:
    """A fleet whose answers a test makes up."""

    def __init__(self, *roles: wire.Role, **settings: object) -> None:
        self.changes = 0
        self.fleet = Fleet(on_change=self._changed, on_gone=lambda _: None)
        self.start_ids = {f"e{number}": "1" for number in range(len(roles))}
        self.roles = dict(zip(self.start_ids, roles, strict=True))
        self.apply()
        self.health, self.pace = OutputHealth(), Pace()
        listening = Listening(self.health, self.pace, NominalModel(), StoppedClock(), hears=True, keep_samples=0)
        self.rotation = Rotation(wire.OutputHealth(**settings), self.fleet, listening)  # type: ignore[arg-type]
        self.now = 0.0

    def _changed(self) -> None:
        self.changes += 1

    def apply(self) -> None:
        self.fleet.apply(
            wire.Fleet(
                version=1,
                engines=tuple(
                    wire.EngineEndpoint(
                        name=name, host="127.0.0.1", port=1, role=role, state=wire.EngineState.READY,
                        start_id=self.start_ids[name],
                    )
                    for name, role in self.roles.items()
                ),
            )
        )  # fmt: skip

    def engine(self, name: str) -> Engine:
        return self.fleet.engines[name]

    def say(self, bad: str, *, part: Part = Part.ANSWERED, sign: Sign = Sign.REPETITION) -> None:
        """Twenty answers of every engine, all of those of one of them bad; then a look."""
        for number in range(20):
            for engine in self.fleet:
                if engine.endpoint.role is wire.Role.PREFILL:
                    continue
                signs = frozenset((sign,)) if engine.name in bad.split() else frozenset()
                self.health.note(engine.identity, part, Answer(self.now, signs, 100, number))
        self.tick()

    def break_down(self, name: str) -> None:
        self.engine(name).health.failed(refused=True)
        self.fleet.health_changed(self.engine(name))

    def tick(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.rotation.tick(self.now)

    @property
    def out(self) -> set[str]:
        return {engine.name for engine in self.fleet if not engine.usable}

    def outcomes(self) -> dict[tuple[str, str], int]:
        return {key: count for key, count in self.rotation.counts.items() if count}


FOUR = (wire.Role.BOTH,) * 4


def test_an_engine_that_stands_out_gets_no_work_until_its_time_is_over() -> None:
    scene = Scene(*FOUR)
    scene.say("e1")
    assert scene.out == {"e1"}
    assert scene.engine("e1").suspended == "repetition"
    assert not scene.engine("e1").view(0.0).usable
    changes = scene.changes
    scene.tick(28)
    assert scene.out == {"e1"}
    scene.tick(2)
    assert scene.out == set()
    assert scene.changes > changes


def test_in_mode_watch_it_is_counted_and_keeps_its_work() -> None:
    scene = Scene(*FOUR, mode=wire.WatchMode.WATCH)
    scene.say("e1")
    assert scene.out == set()
    assert scene.outcomes() == {("repetition", "watched"): 1}
    gauges = [one for one in scene.rotation.gauges() if one[0] == "engine_suspended"]
    assert [labels["reason"] for _, _, labels, _ in gauges] == ["none", "repetition", "none", "none"]
    assert {value for _, _, _, value in gauges} == {0}


def test_in_mode_off_nobody_looks() -> None:
    scene = Scene(*FOUR, mode=wire.WatchMode.OFF)
    scene.say("e1")
    assert scene.outcomes() == {}


def test_no_more_than_the_set_share_is_out() -> None:
    scene = Scene(*FOUR, max_out_percent=25)
    scene.say("e1 e2")
    assert len(scene.out) == 1
    assert scene.outcomes() == {("repetition", "out"): 1, ("repetition", "spared"): 1}


async def test_the_last_engine_of_a_role_stays() -> None:
    scene = Scene(wire.Role.PREFILL, wire.Role.DECODE, wire.Role.DECODE, max_out_percent=100)
    scene.break_down("e2")
    scene.say("e1")
    assert scene.engine("e1").usable
    assert scene.outcomes() == {("repetition", "spared"): 1}


async def test_an_engine_is_back_as_soon_as_no_other_of_its_role_is_left() -> None:
    scene = Scene(wire.Role.PREFILL, wire.Role.DECODE, wire.Role.DECODE)
    scene.say("e1")
    assert scene.out == {"e1"}
    scene.break_down("e2")
    scene.tick()
    assert scene.engine("e1").usable


def test_an_engine_that_was_started_again_is_another_one() -> None:
    scene = Scene(*FOUR)
    scene.say("e1")
    scene.start_ids["e1"] = "2"
    scene.apply()
    scene.tick()
    assert scene.out == set()
    assert all(value == 0 for name, _, labels, value in scene.rotation.gauges() if labels.get("engine") == "e1")


def test_an_engine_whose_work_makes_others_repeat_too_is_back_at_once_and_excused() -> None:
    scene = Scene(*FOUR)
    scene.say("e1")
    scene.say("e0 e2 e3")
    assert scene.out == set()
    scene.say("e1")
    assert scene.out == set()


def test_a_prefill_engine_that_spoils_prompts_is_out() -> None:
    scene = Scene(wire.Role.PREFILL, wire.Role.PREFILL, wire.Role.DECODE)
    for number in range(20):
        for name, signs in (("e0", frozenset((Sign.SCRIPT,))), ("e1", frozenset[Sign]())):
            answer = Answer(0.0, signs, 100, number)
            scene.health.note(scene.engine(name).identity, Part.PREFILLED, answer)
            scene.health.note(scene.engine("e2").identity, Part.ANSWERED, answer)
    scene.tick()
    assert scene.out == {"e0"}


def test_an_engine_that_is_slow_for_long_gets_no_work() -> None:
    scene = Scene(*FOUR)
    for _ in range(30):
        for engine in scene.fleet:
            gap = 0.4 if engine.name == "e3" else 0.1
            scene.pace.note(engine.identity, "", scene.now, gap_seconds=gap, expected_seconds=0.02)
        scene.tick()
    assert scene.engine("e3").suspended == "slow"
    assert scene.out == {"e3"}


def test_slowness_has_a_mode_of_its_own() -> None:
    scene = Scene(*FOUR, slow_engines=wire.WatchMode.WATCH)
    for _ in range(30):
        for engine in scene.fleet:
            gap = 0.4 if engine.name == "e3" else 0.1
            scene.pace.note(engine.identity, "", scene.now, gap_seconds=gap, expected_seconds=0.02)
        scene.tick()
    assert scene.out == set()
    assert ("slow", "watched") in scene.outcomes()
