"""The router's copy of the emulator's tokenizer is the same as the emulator's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline_worker.emulator import protocol
from paceline_worker.emulator.tokens import encode
from paceline_worker.router.parse import Kind
from paceline_worker.router.tokens.byte_model import ByteModel
from paceline_worker.router.tokens.errors import NoTokens
from paceline_worker.router.tokens.prompt import ChatPrompt, read_prompt
from tests.worker.router.tokens.corpus import CHATS, TEXTS
from tests.worker.router.tokens.test_prompt import fields

MODEL = ByteModel()


def rendered(**values: Any) -> str:
    prompt = read_prompt(Kind.CHAT, fields(**values))
    assert isinstance(prompt, ChatPrompt)
    return MODEL.render(prompt)


@given(st.lists(st.one_of(st.text(), st.sampled_from(["<bos>", "<im_start>", "<im_end>", "<eos>", "<"]))).map("".join))
def test_texts_have_the_emulators_tokens(text: str) -> None:
    assert MODEL.encode(text, special_tokens=True).tolist() == encode(text)


@pytest.mark.parametrize("text", TEXTS)
def test_so_do_the_texts_of_the_corpus(text: str) -> None:
    assert MODEL.encode(text, special_tokens=False).tolist() == encode(text)


@pytest.mark.parametrize("chat", CHATS)
def test_conversations_have_the_emulators_text(chat: dict[str, Any]) -> None:
    open_answer = chat.get("add_generation_prompt", True)
    messages = [
        {**message, "content": [part for part in message["content"] if part.get("text")]}
        if isinstance(message.get("content"), list)
        else message
        for message in chat["messages"]
    ]
    assert rendered(**{**chat, "messages": messages}) == protocol.conversation(messages, open_answer=open_answer)


@pytest.mark.parametrize("message", ["x", {"content": "x"}, {"role": ""}, {"role": "user", "content": [{"image": 1}]}])
def test_messages_that_the_emulator_refuses_have_no_tokens(message: Any) -> None:
    with pytest.raises(NoTokens):
        rendered(messages=[message])
