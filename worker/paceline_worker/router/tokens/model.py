"""What turns one kind of model's prompts into tokens: from its folder, or the emulator's bytes."""

from __future__ import annotations

from typing import Protocol

from paceline_worker.router.tokens.prompt import ChatPrompt, TokenIds


class Model(Protocol):
    """Runs in threads, several at once. Both methods raise NoTokens."""

    longest_token: int
    """Characters that one token stands for at most."""
    quick: bool
    """Whether short prompts take less time than a thread and back, and never loop."""

    def render(self, prompt: ChatPrompt) -> str:
        """The text of a conversation."""
        ...

    def encode(self, text: str, *, special_tokens: bool) -> TokenIds:
        """Tokens of a text; ``special_tokens``: with those that the tokenizer adds by itself."""
        ...
