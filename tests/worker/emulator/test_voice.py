"""Text follows from all tokens before it, in constant time, wherever it is taken up."""

from __future__ import annotations

import re
import statistics

from hypothesis import given
from hypothesis import strategies as st

from paceline_worker.emulator.tokens import EOS, decode
from paceline_worker.emulator.voice import Voice, fold

prompts = st.lists(st.integers(0, 151_935), min_size=1, max_size=30)


def say(prompt: list[int], count: int, seed: int = 0, *, may_end: bool = False) -> list[int]:
    voice = Voice(fold(prompt), prompt[-1], seed)
    said: list[int] = []
    while len(said) < count and EOS not in said:
        said.append(voice.next(may_end=may_end))
    return said


@given(prompts, st.integers(0, 40), st.integers(-(2**63), 2**63 - 1))
def test_a_text_taken_up_at_any_place_goes_on_the_same(prompt: list[int], cut: int, seed: int) -> None:
    whole = say(prompt, 40, seed)
    assert whole[:cut] + say(prompt + whole[:cut], 40 - cut, seed) == whole


@given(prompts, prompts)
def test_folding_goes_on_from_any_state(first: list[int], second: list[int]) -> None:
    assert fold(second, fold(first)) == fold(first + second)


@given(prompts, st.integers(0, 29), st.integers(1, 100))
def test_one_other_token_in_the_prompt_gives_another_text(prompt: list[int], place: int, shift: int) -> None:
    place %= len(prompt)
    other = [*prompt[:place], (prompt[place] + shift) % 151_936, *prompt[place + 1 :]]
    assert say(prompt, 40) != say(other, 40)


def test_another_seed_gives_another_text() -> None:
    assert len({tuple(say([1, 2, 3], 20, seed)) for seed in range(50)}) == 50


def test_the_state_of_another_prompt_shows_in_the_text() -> None:
    right, wrong = Voice(fold([1, 2, 3]), 3, 0), Voice(fold([9, 2, 3]), 3, 0)
    assert [right.next(may_end=False) for _ in range(20)] != [wrong.next(may_end=False) for _ in range(20)]


def test_text_can_be_pronounced() -> None:
    text = decode(say(list(b"hello"), 2000))
    assert re.fullmatch(r"[a-z ]+", text)
    assert not re.search(r"[aeiouy]{2}|  | [aeiou]", text)
    assert not re.search(r"[bcdfghjklmnprstvwz]{2}", text)


def test_texts_end_by_themselves_after_a_few_hundred_tokens() -> None:
    lengths = [len(say([number, 7], 100_000, may_end=True)) for number in range(300)]
    assert 180 < statistics.mean(lengths) < 320


def test_log_probabilities_are_those_of_the_token_said_and_less_likely_ones() -> None:
    voice = Voice(fold([1]), 1, 0)
    token = voice.next(may_end=False)
    said, *others = voice.logprobs(5)
    assert said[0] == token
    assert len({letter for letter, _ in others}) == 5
    values = [value for _, value in (said, *others)]
    assert values == sorted(values, reverse=True)
    assert values[0] <= 0
