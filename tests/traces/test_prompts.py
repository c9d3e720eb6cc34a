"""Prompts made from block ids: exact lengths, equal ids equal tokens, bounded memory."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.traces.prompts import PromptMaker
from paceline.traces.record import TraceRequest


def request(tokens: int, *blocks: int, block_size: int = 512, at: float = 0.0) -> TraceRequest:
    return TraceRequest(at, tokens, 1, blocks, block_size)


@given(tokens=st.integers(1, 3000), block_size=st.sampled_from([16, 64, 512]), first=st.integers(0, 1000))
def test_a_prompt_has_exactly_the_length_of_the_request_in_every_form(tokens: int, block_size: int, first: int) -> None:
    blocks = range(first, first + -(-tokens // block_size))
    made = request(tokens, *blocks, block_size=block_size)
    maker = PromptMaker()
    ids = maker.token_ids(made)
    assert len(ids) == tokens
    assert json.loads(maker.token_ids_json(made)) == ids
    assert maker.text(made).encode() == bytes(ids)


def test_equal_ids_are_equal_tokens_and_different_ids_are_not() -> None:
    maker = PromptMaker()
    left = maker.token_ids(request(1536, 1, 2, 3))
    right = maker.token_ids(request(1536, 1, 2, 4))
    assert left[:1024] == right[:1024]
    assert left[1024:] != right[1024:]


def test_a_partly_filled_block_is_the_start_of_the_full_one() -> None:
    maker = PromptMaker()
    assert maker.token_ids(request(700, 1, 2)) == maker.token_ids(request(1024, 1, 2))[:700]


def test_two_makers_agree_and_another_seed_does_not() -> None:
    made = request(900, 5, 6)
    assert PromptMaker().text(made) == PromptMaker().text(made)
    assert PromptMaker(seed=1).text(made) != PromptMaker().text(made)


def test_without_blocks_a_request_shares_nothing_with_others_but_repeats_itself() -> None:
    maker = PromptMaker()
    assert maker.text(request(64, at=1.0)) == maker.text(request(64, at=1.0))
    assert maker.text(request(64, at=1.0)) != maker.text(request(64, at=2.0))
    assert json.loads(maker.token_ids_json(request(64, at=1.0))) == maker.token_ids(request(64, at=1.0))


def test_the_memory_is_bounded_and_what_was_dropped_is_made_again_the_same() -> None:
    maker = PromptMaker(cache_blocks=4)
    before = maker.text(request(512, 0))
    for block in range(1, 50):
        maker.text(request(512, block))
    assert maker.cached_blocks == 4
    assert maker.text(request(512, 0)) == before


def test_a_cache_of_nothing_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PromptMaker(cache_blocks=0)
