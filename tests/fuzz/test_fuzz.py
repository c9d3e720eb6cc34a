"""The fuzzer finds what is there to find, and a few inputs of every target go well. The long form is ``make fuzz``."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import runner
from tests.fuzz.front_door import FrontDoor
from tests.fuzz.inputs import mutated
from tests.fuzz.runner import run, save, shares
from tests.fuzz.target import Found, Plain, Target
from tests.fuzz.targets import TARGETS

INPUTS = 60
PLAIN = sorted(name for name, kind in TARGETS.items() if not issubclass(kind, FrontDoor))


class Planted(Plain):
    """Fails on every input with a zero in it."""

    name = "planted"

    def make(self, rng: random.Random) -> bytes:
        return mutated(rng, b"hello")

    def check(self, data: bytes) -> None:
        if b"\0" in data:
            raise Found("a zero")


class Hanging(Planted):
    def check(self, data: bytes) -> None:
        while True:
            pass


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_what_is_wrong_is_found_once_with_its_input(tmp_path: Path) -> None:
    result = run(Planted(), 2000, "1")
    (failure,) = result.failures.values()
    assert failure.count > 1
    (path,) = save(result, tmp_path)
    assert b"\0" in path.read_bytes()
    assert "Found: a zero" in path.with_suffix(".txt").read_text()


def test_the_same_seed_makes_the_same_inputs() -> None:
    def made(seed: str) -> list[bytes]:
        seen: list[bytes] = []
        target = Planted()
        target.check = seen.append  # type: ignore[method-assign]
        run(target, 50, seed)
        return seen

    assert made("1") == made("1") != made("2")


def test_an_input_that_hangs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LONGEST_SECONDS", 0.05)
    (failure,) = run(Hanging(), 1, "1").failures.values()
    assert "hung" in failure.where


def test_every_target_gets_its_share() -> None:
    counts = shares(list(TARGETS.values()), 10_000)
    assert set(counts) == set(TARGETS)
    assert abs(sum(counts.values()) - 10_000) < len(TARGETS)


@pytest.mark.parametrize("name", TARGETS)
def test_random_inputs_are_answered_as_they_should_be(name: str) -> None:
    result = run(TARGETS[name](), INPUTS, "short")
    assert not result.failures, "\n".join(failure.text for failure in result.failures.values())


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, Target]]:
    made = {name: TARGETS[name]() for name in PLAIN}
    yield made
    for target in made.values():
        target.finish()


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rng=st.randoms(use_true_random=False))
def test_inputs_that_hypothesis_looks_for_are_answered_as_they_should_be(
    targets: dict[str, Target], name: str, rng: random.Random
) -> None:
    target = targets[name]
    target.check(target.make(rng))
