"""What looks wrong in one answer, and what does not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.policy.health.scripts import Script, count_scripts, holds_script, unescaped
from paceline.policy.health.signs import Sign, foreign, repetition, source_of, tokens_of_text

CODE = """
def wilson(part, whole, z):
    if whole == 0:
        return 0.0, 1.0
    ratio, square = part / whole, z * z
    middle = ratio + square / (2 * whole)
    spread = z * math.sqrt(ratio * (1 - ratio) / whole + square / (4 * whole * whole))
    return (middle - spread) / (1 + square / whole), (middle + spread) / (1 + square / whole)
"""
TABLE = "\n".join(
    f"| {number:3d} | {number * number:6d} | {'even' if number % 2 == 0 else 'odd':4s} |" for number in range(80)
)
LIST = "\n".join(f"{number}. item number {number}" for number in range(1, 120))
JSON = json.dumps([{"id": number, "name": f"user-{number}", "active": True} for number in range(60)], indent=2)


def prompt(text: str) -> bytes:
    return json.dumps([{"role": "user", "content": text}], ensure_ascii=False).encode()


@pytest.mark.parametrize("text", [CODE, TABLE, LIST, JSON], ids=["code", "table", "list", "json"])
def test_code_tables_and_long_lists_do_not_repeat(text: str) -> None:
    tokens = list(text.encode())
    assert all(repetition(tokens[:end]) is None for end in range(8, len(tokens), 7))


@pytest.mark.parametrize("token", [0, 33, 151_935])
@pytest.mark.parametrize("count", [8, 64, 1000])
def test_nothing_but_one_token_is_a_sign_however_short_the_answer(token: int, count: int) -> None:
    assert repetition([token] * count) is Sign.ONE_TOKEN


def test_seven_equal_tokens_may_be_chance() -> None:
    assert repetition([5] * 7) is None


@given(st.lists(st.integers(0, 151_935), min_size=2, max_size=48), st.lists(st.integers(0, 151_935), max_size=500))
def test_any_phrase_that_never_ends_is_found_whatever_came_before(phrase: list[int], before: list[int]) -> None:
    said = repetition((before + phrase * 100)[: len(before) + 4 * 48])
    assert said in (Sign.REPETITION, Sign.ONE_TOKEN)


@given(st.lists(st.integers(0, 151_935), max_size=400, unique=True))
def test_tokens_that_differ_never_repeat(tokens: list[int]) -> None:
    assert repetition(tokens) is None


def test_a_phrase_that_was_repeated_and_came_to_an_end_is_no_sign() -> None:
    assert repetition([1, 2, 3] * 50 + [4]) is None


def test_a_phrase_that_is_said_three_times_is_no_sign() -> None:
    assert repetition(list(range(40)) * 3) is None


def test_pieces_of_text_stand_in_for_tokens() -> None:
    assert tokens_of_text(["a", " b", "a"]) == [0, 1, 0]


RUSSIAN = "Сегодня хорошая погода, и мы идём гулять в парк у реки."
CHINESE = "今天天气很好,我们去河边的公园散步吧,然后一起吃午饭,下午再去图书馆看书,晚上回家做饭。"
JAPANESE = "今日は天気がいいので、川のそばの公園を散歩しましょう。そのあとで昼ごはんを食べます。"
ENGLISH = "The weather is good today, and we go for a walk in the park by the river."


@pytest.mark.parametrize(
    ("answer", "asked"),
    [
        (CHINESE, CHINESE), (RUSSIAN, RUSSIAN), (ENGLISH, CHINESE), (CODE, RUSSIAN), (JAPANESE, CHINESE),
        ("Das heißt: " + ENGLISH, ENGLISH), (ENGLISH + " 😀🎉→•", ENGLISH), ("你好", ENGLISH),
    ],
)  # fmt: skip
def test_a_script_that_the_prompt_has_too_or_latin_or_a_few_words_are_no_sign(answer: str, asked: str) -> None:
    assert foreign(answer, prompt(asked)) is None


@pytest.mark.parametrize(("answer", "asked"), [(RUSSIAN, ENGLISH), (CHINESE, RUSSIAN), (JAPANESE, ENGLISH)])
def test_a_script_that_the_prompt_has_nothing_of_is_a_sign(answer: str, asked: str) -> None:
    assert foreign(answer, prompt(asked)) is Sign.SCRIPT


def test_replacement_characters_are_no_text() -> None:
    assert foreign("some text " + "\N{REPLACEMENT CHARACTER}" * 30, prompt(ENGLISH)) is Sign.SCRIPT


def test_a_prompt_that_is_escaped_is_read_as_what_it_says() -> None:
    escaped = json.dumps([{"role": "user", "content": RUSSIAN}]).encode()
    assert escaped.isascii()
    assert foreign(RUSSIAN, escaped) is None


def test_of_a_long_prompt_both_ends_are_looked_at() -> None:
    filler = "x" * 50_000
    assert foreign(RUSSIAN, prompt(RUSSIAN + filler)) is None
    assert foreign(RUSSIAN, prompt(filler + RUSSIAN)) is None


@given(st.binary(max_size=300), st.sampled_from(Script))
def test_any_bytes_can_be_asked_for_their_scripts(raw: bytes, script: Script) -> None:
    assert holds_script(raw, script) in (True, False)


@given(st.text(max_size=60))
def test_text_that_was_escaped_or_not_has_the_same_scripts(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode().replace("\\", "")
    assert count_scripts(unescaped(json.dumps(text)[1:-1].encode())) == count_scripts(
        unescaped(json.dumps(text, ensure_ascii=False)[1:-1].encode())
    )


def test_answers_of_one_conversation_are_one_witness() -> None:
    assert source_of(b"one", "s") == source_of(b"two", "s") != source_of(b"two", None)
    assert source_of(b"a" * 10_000, None) == source_of(b"a" * 10_000, None) != source_of(b"b" * 10_000, None)
