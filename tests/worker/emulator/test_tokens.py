"""One token a byte, special tokens by name, a chat template that an ordinary tokenizer can rebuild."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_worker.emulator.tokens import (
    EOS,
    IM_END,
    IM_START,
    decode,
    encode,
    message_text,
    render_chat,
    token_strings,
)


@given(st.text())
def test_a_text_comes_back_from_its_tokens(text: str) -> None:
    encoded = text.encode("utf-8", "surrogatepass")
    if encoded.decode("utf-8", "ignore") == text:
        assert decode(encode(text)) == text


def test_a_token_is_a_byte() -> None:
    assert encode("aé") == [97, 195, 169]


def test_names_of_special_tokens_stand_for_them() -> None:
    assert encode("<im_start>a<im_end><b") == [IM_START, 97, IM_END, ord("<"), ord("b")]
    assert decode([97, EOS]) == "a<eos>"
    assert decode([97, EOS], skip_special=True) == "a"


def test_bytes_that_are_no_text_do_not_break_the_rest() -> None:
    assert decode([97, 0xC3, 98, 100_000]) == "a\ufffdb"


def test_a_conversation_ends_where_the_assistant_is_to_speak() -> None:
    assert render_chat([("system", "S"), ("user", "U")]) == (
        "<im_start>system\nS<im_end>\n<im_start>user\nU<im_end>\n<im_start>assistant\n"
    )
    assert render_chat([("user", "U")], open_answer=False) == "<im_start>user\nU<im_end>\n"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        (None, ""),
        ([{"type": "text", "text": "a"}, "b"], "a\nb"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], None),
        (7, None),
    ],
)
def test_only_text_of_a_message_is_understood(content: object, text: str | None) -> None:
    assert message_text(content) == text


def test_each_token_can_be_shown_by_itself() -> None:
    assert token_strings([97, 195, EOS, 5000]) == ["a", "Ã", "<eos>", ""]
