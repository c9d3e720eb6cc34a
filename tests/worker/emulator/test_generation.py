"""Where a text ends, what of it may be shown when, and which blocks it fills."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_worker.emulator.tokens import EOS, decode
from tests.worker.emulator.building import generation, speak


def test_it_ends_at_its_limit() -> None:
    made, log = generation(limit=7)
    speak(made)
    assert (len(log.tokens), made.finish_reason) == (7, "length")
    assert decode(log.tokens) == log.text


def test_it_ends_by_itself_with_an_end_of_text_token_that_has_no_text() -> None:
    made, log = generation(limit=4000, ignore_eos=False)
    speak(made)
    assert (made.finish_reason, made.stop_reason) == ("stop", None)
    assert log.tokens[-1] == EOS
    assert log.text == decode(log.tokens[:-1])


def test_it_does_not_end_before_its_minimum() -> None:
    natural, _ = generation(limit=4000, ignore_eos=False)
    speak(natural)
    longer, log = generation(limit=4000, ignore_eos=False, min_tokens=len(natural.output) + 5, max_tokens=4000)
    speak(longer)
    assert len(log.tokens) > len(natural.output) + 5
    assert log.tokens[: len(natural.output) - 1] == natural.output[:-1]


@given(st.integers(0, 30), st.integers(1, 6), st.booleans())
def test_a_stop_string_is_never_shown_in_part(place: int, length: int, include: bool) -> None:
    whole, said = generation()
    speak(whole)
    stop = said.text[place : place + length]
    cut, log = generation(stop=[stop], include_stop_str_in_output=include)
    speak(cut)
    end = said.text.index(stop)
    assert log.text == said.text[: end + length if include else end]
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)
    shown = ""
    for piece in log.pieces:
        shown += piece
        assert said.text.startswith(shown)


def test_text_kept_back_for_a_stop_string_that_does_not_come_is_shown_at_the_end() -> None:
    made, log = generation(limit=9, stop=["never this"])
    speak(made)
    assert log.text == decode(log.tokens)
    assert log.pieces[:-1] == [""] * 8


def test_a_stop_token_ends_it_and_is_counted_but_not_shown() -> None:
    whole, said = generation()
    speak(whole)
    stop = said.tokens[12]
    cut, log = generation(stop_token_ids=[stop])
    speak(cut)
    first = said.tokens.index(stop)
    assert log.tokens == said.tokens[: first + 1]
    assert log.text == decode(said.tokens[:first])
    assert (cut.finish_reason, cut.stop_reason) == ("stop", stop)


def test_state_from_another_engine_is_used_instead_of_its_own() -> None:
    here, log_here = generation()
    speak(here)
    same, log_same = generation()
    same.remote_state = here.prompt_state()
    speak(same)
    other, log_other = generation()
    other.remote_state = here.prompt_state() + 1
    speak(other)
    assert log_same.tokens == log_here.tokens
    assert log_other.tokens != log_here.tokens


def test_block_hashes_are_chained_and_can_be_asked_for_bit_by_bit() -> None:
    at_once, _ = generation("abcdefghijkl")
    bit_by_bit, _ = generation("abcdefghijkl")
    bit_by_bit.hashes(1)
    assert list(bit_by_bit.hashes(3)) == list(at_once.hashes(3))
    other, _ = generation("abcXefghijkl")
    assert not set(at_once.hashes(3)) & set(other.hashes(3))


def test_blocks_of_other_tenants_have_other_hashes() -> None:
    hashes = {generation("abcdefgh", cache_salt=salt)[0].hashes(2)[0] for salt in (None, "one", "two")}
    assert len(hashes) == 3


@pytest.mark.parametrize(("start", "end"), [(0, 3), (3, 7), (5, 9), (0, 9)])
def test_tokens_run_from_the_prompt_into_the_output(start: int, end: int) -> None:
    made, log = generation("hello", limit=6)
    speak(made)
    assert made.tokens(start, end) == (list(b"hello") + log.tokens)[start:end]
