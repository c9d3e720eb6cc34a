"""Who stands out by what engines say, and that a legitimate load makes nobody do so."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest

from paceline.policy.health.output import Answer, OutputHealth, Part, Verdict
from paceline.policy.health.signs import Sign

NOTHING = frozenset[Sign]()
REPEATS = frozenset((Sign.REPETITION,))


class Bench:
    """Engines that give an answer a second each, and a look at them after each round."""

    def __init__(self, *names: str) -> None:
        self.health = OutputHealth()
        self.names = names
        self.now = 0.0
        self.answers = 0

    def give(
        self, name: str, signs: Iterable[Sign] = (), tokens: int | None = 200, source: int | None = None,
        part: Part = Part.ANSWERED,
    ) -> None:  # fmt: skip
        self.answers += 1
        who = self.answers if source is None else source
        self.health.note(name, part, Answer(self.now, frozenset(signs), tokens, who))

    def look(self, *, again: Iterable[str] = ()) -> list[Verdict]:
        self.now += 1.0
        return self.health.verdicts(self.now, out={}, again=again)

    def rounds(self, count: int, say: Callable[[str], tuple[Iterable[Sign], int | None]]) -> tuple[int, list[Verdict]]:
        """Rounds until somebody stood out, and who."""
        for number in range(1, count + 1):
            for name in self.names:
                signs, tokens = say(name)
                self.give(name, signs, tokens)
            if found := self.look():
                return number, found
        return count, []


@pytest.mark.parametrize("sign", [Sign.REPETITION, Sign.ONE_TOKEN, Sign.SCRIPT])
@pytest.mark.parametrize("engines", [2, 4, 8])
def test_an_engine_whose_answers_all_bear_a_sign_stands_out_within_17_of_them(sign: Sign, engines: int) -> None:
    bench = Bench(*(f"e{number}" for number in range(engines)))
    rounds, found = bench.rounds(64, lambda name: ([sign] if name == "e1" else [], 200))
    assert [(one.engine, one.sign) for one in found] == [("e1", sign)]
    assert rounds <= 17


def test_an_engine_of_which_every_other_answer_is_bad_stands_out() -> None:
    bench, draw = Bench("good", "fine", "bad"), random.Random(1)
    _, found = bench.rounds(64, lambda name: (REPEATS if name == "bad" and draw.random() < 0.5 else (), 200))
    assert [one.engine for one in found] == ["bad"]


def test_two_bad_engines_of_five_both_stand_out() -> None:
    bench = Bench("a", "b", "c", "d", "e")
    _, found = bench.rounds(64, lambda name: (REPEATS if name in "ab" else (), 200))
    assert {one.engine for one in found} == {"a", "b"}


def test_an_engine_whose_answers_never_end_stands_out_against_its_siblings() -> None:
    draw = random.Random(2)
    bench = Bench("a", "b", "c")
    _, found = bench.rounds(64, lambda name: ((), 4096 if name == "b" else 1 + int(draw.expovariate(1 / 250))))
    assert [(one.engine, one.sign) for one in found] == [("b", Sign.LENGTH)]


def test_an_engine_that_serves_an_application_with_long_answers_is_as_it_always_was() -> None:
    draw = random.Random(3)

    def usual(name: str) -> tuple[Iterable[Sign], int]:
        return (), 1 + int(draw.expovariate(1 / (4000 if name == "long" else 250)))

    bench = Bench("a", "b", "long")
    for _ in range(200):
        for name in bench.names:
            bench.give(name, *usual(name))
    assert bench.rounds(300, usual)[1] == []


def test_a_prefill_engine_that_spoils_prompts_stands_out_among_prefill_engines_only() -> None:
    bench, draw = Bench(), random.Random(4)
    found: list[Verdict] = []
    for _ in range(400):
        prefill, decode = draw.choice(["p1", "p2", "p3"]), draw.choice(["d1", "d2", "d3"])
        signs = REPEATS if prefill == "p2" else NOTHING
        bench.give(prefill, signs, part=Part.PREFILLED)
        bench.give(decode, signs)
        found += bench.look()
    assert {(one.engine, one.part) for one in found} == {("p2", Part.PREFILLED)}


def test_one_conversation_or_one_prompt_makes_no_engine_stand_out() -> None:
    bench = Bench("a", "b")
    for _ in range(64):
        bench.give("a", REPEATS, source=7)
        bench.give("b")
        assert bench.look() == []


def test_an_engine_that_came_back_is_out_again_after_five_bad_answers() -> None:
    bench = Bench("a", "b", "c")
    for _ in range(64):
        for name in "ac":
            bench.give(name)
    bench.look()
    for _ in range(5):
        assert bench.look(again=["b"]) == []
        bench.give("b", REPEATS)
    assert [one.engine for one in bench.look(again=["b"])] == ["b"]


def test_answers_of_long_ago_say_nothing() -> None:
    bench = Bench("a", "b")
    for _ in range(20):
        bench.give("a", REPEATS)
        bench.give("b")
    bench.now += 10_000
    bench.give("a")
    bench.give("b")
    assert bench.look() == []
    assert len(bench.health) == 2


def test_when_siblings_show_the_same_after_they_took_the_work_over_it_was_the_work() -> None:
    bench = Bench("a", "b", "c")
    _, found = bench.rounds(64, lambda name: (REPEATS if name == "a" else (), 200))
    since = bench.now
    assert not bench.health.alike(found[0], since)
    for _ in range(16):
        bench.give("b", REPEATS)
        bench.give("c")
    assert bench.health.alike(found[0], since)


def test_memory_is_bounded_by_engines_and_those_that_are_gone_are_forgotten() -> None:
    bench = Bench("a", "b")
    for _ in range(1000):
        bench.give("a")
        bench.give("b")
    assert len(bench.health) == 128
    bench.health.keep(["a"])
    assert len(bench.health) == 64


# --- loads that are as they should be


def _everybody_repeats(draw: random.Random) -> tuple[Iterable[Sign], int]:
    return (REPEATS if draw.random() < 0.9 else ()), 512


def _some_repeat(draw: random.Random) -> tuple[Iterable[Sign], int]:
    return (REPEATS if draw.random() < 0.05 else ()), 1 + int(draw.expovariate(1 / 250))


def _half_repeat(draw: random.Random) -> tuple[Iterable[Sign], int]:
    return (REPEATS if draw.random() < 0.5 else ()), 1 + int(draw.expovariate(1 / 250))


def _translations(draw: random.Random) -> tuple[Iterable[Sign], int]:
    return ((Sign.SCRIPT,) if draw.random() < 0.3 else ()), 1 + int(draw.lognormvariate(5, 1))


def _heavy_tails(draw: random.Random) -> tuple[Iterable[Sign], int]:
    return (), 1 + int(draw.lognormvariate(4, 2))


def _fixed_length(draw: random.Random) -> tuple[Iterable[Sign], int]:
    return (), 128


ANSWERS = 1500
"""Of all engines; ``python -m tests.bench.output_health load`` takes as many as you like."""
LOADS = [_everybody_repeats, _some_repeat, _half_repeat, _translations, _heavy_tails, _fixed_length]


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.__name__.strip("_"))
@pytest.mark.parametrize("engines", [2, 3, 8])
def test_a_load_that_all_engines_share_makes_none_stand_out(
    load: Callable[[random.Random], tuple[Iterable[Sign], int]], engines: int
) -> None:
    draw = random.Random(f"{load.__name__} {engines}")
    bench = Bench(*(f"e{number}" for number in range(engines)))
    assert bench.rounds(ANSWERS // engines, lambda _: load(draw))[1] == []


def test_a_load_that_begins_to_repeat_everywhere_within_a_minute_makes_none_stand_out() -> None:
    for seed in range(20):
        draw = random.Random(seed)
        bench = Bench("a", "b", "c", "d")
        for second in range(120):
            share = min(1.0, max(0.0, (second - 30) / 60))
            for name in bench.names:
                bench.give(name, REPEATS if draw.random() < share else ())
            assert bench.look() == []
