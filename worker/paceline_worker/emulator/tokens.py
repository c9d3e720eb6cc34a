"""The emulator's tokenizer: one token a byte, and a chat template without Jinja.

Small enough to be rebuilt exactly as a byte-level BPE without merges, so that whoever predicts the engine's blocks from
text can do so with an ordinary tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

VOCABULARY: Final = 151_936
"""Ids below it are accepted in prompts."""

BOS: Final = 256
EOS: Final = 257
IM_START: Final = 258
IM_END: Final = 259
SPECIAL: Final = {"<bos>": BOS, "<eos>": EOS, "<im_start>": IM_START, "<im_end>": IM_END}

_NAME_OF: Final = {token: name for name, token in SPECIAL.items()}
_SPECIAL: Final = re.compile("|".join(map(re.escape, SPECIAL)))


def encode(text: str) -> list[int]:
    """Tokens of a text; the names of special tokens stand for them."""
    if "<" not in text:
        return list(text.encode("utf-8", "surrogatepass"))
    tokens: list[int] = []
    end = 0
    for match in _SPECIAL.finditer(text):
        tokens += text[end : match.start()].encode("utf-8", "surrogatepass")
        tokens.append(SPECIAL[match.group()])
        end = match.end()
    tokens += text[end:].encode("utf-8", "surrogatepass")
    return tokens


def decode(tokens: Iterable[int], *, skip_special: bool = False) -> str:
    """Text of tokens. Bytes that are not UTF-8 become U+FFFD; ids above the special ones have no text."""
    parts: list[str] = []
    run = bytearray()
    for token in tokens:
        if token < 256:
            run.append(token)
            continue
        parts.append(run.decode("utf-8", "replace"))
        run.clear()
        if not skip_special:
            parts.append(_NAME_OF.get(token, ""))
    parts.append(run.decode("utf-8", "replace"))
    return "".join(parts)


def token_strings(tokens: Sequence[int]) -> list[str]:
    """Each token by itself, as ``/tokenize`` shows it."""
    return [_NAME_OF.get(token) or (bytes((token,)).decode("latin-1") if token < 256 else "") for token in tokens]


def render_chat(messages: Sequence[tuple[str, str]], *, open_answer: bool = True) -> str:
    """The prompt of a conversation of (role, content); ``open_answer`` adds the start of the assistant's turn."""
    turns = "".join(f"<im_start>{role}\n{content}<im_end>\n" for role, content in messages)
    return turns + "<im_start>assistant\n" if open_answer else turns


def message_text(content: Any) -> str | None:
    """Text of a chat message's content: a string, or a list of text parts. None if it is neither."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            return None
        texts.append(text)
    return "\n".join(texts)
