"""The emulator's tokens and chat template: one token a UTF-8 byte (docs/decisions/0005).

The router and the emulator are separate programs that import nothing of each other: this is the same small definition
once more, and a test compares the two.
"""

from __future__ import annotations

import re
from array import array
from typing import Any, Final

from paceline_worker.router.tokens.errors import NoTokens, Outcome
from paceline_worker.router.tokens.prompt import ChatPrompt, TokenIds

NAME: Final = "bytes"
"""What the router's configuration says instead of a folder."""
_SPECIAL: Final = {"<bos>": 256, "<eos>": 257, "<im_start>": 258, "<im_end>": 259}
_PATTERN: Final = re.compile("(" + "|".join(map(re.escape, _SPECIAL)) + ")")


class ByteModel:
    """Tokens of emulated engines."""

    longest_token = max(map(len, _SPECIAL))
    quick = True

    def render(self, prompt: ChatPrompt) -> str:
        """The turns; tools and other variables have no part in it."""
        turns = "".join(map(_turn, prompt.messages))
        return turns + "<im_start>assistant\n" if prompt.add_generation_prompt else turns

    def encode(self, text: str, *, special_tokens: bool) -> TokenIds:
        """There are no special tokens that are added by themselves."""
        del special_tokens
        tokens = array("I")
        for index, part in enumerate(_PATTERN.split(text)):
            if index % 2:
                tokens.append(_SPECIAL[part])
            else:
                # Each byte as a number of four bytes, without a Python object for any of them.
                tokens.frombytes(part.encode("utf-8", "surrogatepass").decode("latin-1").encode("utf-32-le"))
        return tokens


def _turn(message: Any) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or not role:
        raise NoTokens(Outcome.REFUSED, "messages: each is an object with a role")
    return f"<im_start>{role}\n{_text(message.get('content'))}<im_end>\n"


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [None]
    return "\n".join(map(_part_text, parts))


def _part_text(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) else part
    if not isinstance(text, str):
        raise NoTokens(Outcome.UNSUPPORTED, "messages: not only text")
    return text
