"""Cutting texts before special tokens: the parts have the tokens of the whole, whatever the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from paceline_worker.router.tokens import cutting
from paceline_worker.router.tokens.cutting import LEAST_CHARACTERS, cut, cut_tokens
from tests.worker.router.tokens.models import train

CUT = "<|start|>"


def added(tokenizer: Tokenizer) -> list[AddedToken]:
    return list(tokenizer.get_added_tokens_decoder().values())


def byte_level(**cut_options: Any) -> Tokenizer:
    specials: list[str | AddedToken] = ["<|end|>", "<|start|>assistant", "<|", ">\n"]
    tokenizer = train((AddedToken(CUT, special=True, normalized=False, **cut_options), *specials))
    tokenizer.add_tokens([AddedToken("the ", normalized=True), AddedToken("|>", normalized=True)])
    return tokenizer


def sentencepiece_like(scheme: str) -> Tokenizer:
    letters = {letter: index for index, letter in enumerate("▁abcdefghijklmnopqrstuvwxyz<|>\n_")}
    vocabulary = {**letters, "ab": 40, "▁a": 41, "<unk>": 42}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("▁", "a")], unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.add_special_tokens([CUT, AddedToken("<|end|>", rstrip=True), AddedToken("<|pad|>", lstrip=True)])
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "byte level": byte_level,
    "byte level, blanks to the right belong to the token": lambda: byte_level(rstrip=True),
    "metaspace before the first word": lambda: sentencepiece_like("first"),
    "metaspace before every word": lambda: sentencepiece_like("always"),
}

SPECIAL = (CUT, "<|end|>", "<|pad|>", "<|start|>assistant", "<|", "|>", ">", ">\n", "<", "<|start", "the ")
OTHER = (" ", "  ", "\n", "\r\n", "a", "ab", "B", "é", "e\u0301", "日本", "🙂", "\u200d", "\ufeff", "ﬁ", "_")
pieces = st.sampled_from((*SPECIAL, *OTHER))
texts = st.lists(pieces, max_size=40).map("".join)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_parts_have_the_tokens_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "LEAST_CHARACTERS", 1)
    tokenizer = TOKENIZERS[name]()
    cuts = cut_tokens([CUT], added(tokenizer))
    assert cuts == (CUT,)

    @given(texts)
    def check(text: str) -> None:
        parts = cut(text, cuts)
        assert "".join(parts) == text
        together = [token for part in parts for token in tokenizer.encode(part, add_special_tokens=False).ids]
        assert together == tokenizer.encode(text, add_special_tokens=False).ids

    check()


@given(texts, texts)
def test_texts_with_a_common_beginning_have_common_first_parts(text: str, more: str) -> None:
    text *= 1 + LEAST_CHARACTERS // 8
    *closed, _ = cut(text, [CUT])
    assert cut(text + more, [CUT])[: len(closed)] == closed


def test_parts_are_not_shorter_than_is_worth_it() -> None:
    *closed, _ = cut(f"{CUT}ab" * 1000, [CUT])
    assert closed
    assert min(map(len, closed)) >= LEAST_CHARACTERS


@pytest.mark.parametrize(
    "other",
    [
        AddedToken("x<|start|>"),
        AddedToken("x<|start|>y"),
        AddedToken("x<|"),
        AddedToken("word", single_word=True),
        AddedToken("<|start|>y", lstrip=True),
    ],
)
def test_nothing_is_cut_where_another_token_could_reach_over(other: AddedToken) -> None:
    assert cut_tokens([CUT], [AddedToken(CUT, normalized=False), other]) == ()


@pytest.mark.parametrize("options", [{"lstrip": True}, {"normalized": True}, {"single_word": True}])
def test_nothing_is_cut_before_tokens_that_depend_on_what_is_before_them(options: dict[str, bool]) -> None:
    assert cut_tokens([CUT], [AddedToken(CUT, **{"normalized": False, **options})]) == ()


def test_tokens_that_begin_with_a_blank_or_are_not_known_cut_nothing() -> None:
    assert cut_tokens([" <s>", "<t>"], [AddedToken(" <s>", normalized=False)]) == ()
