"""What a request says about its prompt: token ids, a text, or a conversation. Called first, for every request.

Field names, defaults and their interplay are those of vLLM 0.32's ``/v1/completions`` and ``/v1/chat/completions``.
What changes the tokens in a way that can't be followed here is refused with :class:`NoTokens`; nothing is guessed.
"""

from __future__ import annotations

from array import array
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from paceline.unreadable import UNREADABLE
from paceline_worker.router.parse import Fields, Kind
from paceline_worker.router.tokens.errors import NoTokens, Outcome

TokenIds: TypeAlias = "array[int]"
"""Ids as unsigned 32-bit numbers (type code ``I``)."""

_UNPREDICTABLE: Final = (
    "truncate_prompt_tokens",
    "prompt_embeds",
    "suffix",
    "chat_template",
    "mm_processor_kwargs",
    "media_io_kwargs",
)
"""Fields that change the prompt by means that only the engine has."""
_RESERVED: Final = frozenset(
    {
        "chat_template",
        "conversation",
        "max_length",
        "messages",
        "model_config",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "tokenize",
        "tokenizer",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)
"""Names in ``chat_template_kwargs`` that reach past the template into the engine's own calls."""
_UNSET: Final = (None, "auto")
"""vLLM drops keyword arguments of a template that have one of these values."""


class TextPrompt(msgspec.Struct, frozen=True):
    """A text as it is."""

    text: str
    special_tokens: bool
    """Whether the tokenizer adds its own: most often one that marks the beginning."""


class ChatPrompt(msgspec.Struct, frozen=True):
    """A conversation, and how to render it."""

    messages: list[Any]
    tools: list[dict[str, Any]] | None
    documents: list[dict[str, str]] | None
    add_generation_prompt: bool
    continue_final_message: bool
    special_tokens: bool
    variables: dict[str, Any]
    """Further variables of the template."""


Prompt: TypeAlias = "TokenIds | TextPrompt | ChatPrompt"

T = TypeVar("T")

_PROMPT: Final = msgspec.json.Decoder(str | list[Any] | None)
_IDS: Final = msgspec.json.Decoder(list[int])
_MESSAGES: Final = msgspec.json.Decoder(list[Any])
_TOOLS: Final = msgspec.json.Decoder(list[dict[str, Any]] | None)
_DOCUMENTS: Final = msgspec.json.Decoder(list[dict[str, str]] | None)
_KWARGS: Final = msgspec.json.Decoder(dict[str, Any] | None)
_BOOL: Final = msgspec.json.Decoder(bool | None)
_STR: Final = msgspec.json.Decoder(str | None)
_ANY: Final = msgspec.json.Decoder(Any)


def read_prompt(kind: Kind, fields: Fields) -> Prompt:
    """The prompt of a request's top-level fields. Raises NoTokens."""
    for name in _UNPREDICTABLE:
        if _read(fields, name, _ANY) is not None:
            raise NoTokens(Outcome.UNSUPPORTED, f"{name} changes the prompt in a way that only engines know")
    if kind is Kind.CHAT:
        return _chat(fields)
    if kind is Kind.COMPLETION:
        return _completion(fields)
    raise NoTokens(Outcome.UNSUPPORTED, "the request does not continue a prompt")


def is_token_ids(kind: Kind, fields: Fields) -> bool:
    """Whether the prompt comes as a list of token ids, told from its first bytes."""
    if kind is not Kind.COMPLETION or "prompt" not in fields:
        return False
    start = bytes(memoryview(fields["prompt"])[:16])
    return start[:1] == b"[" and start[1:].lstrip()[:1].isdigit()


def tool_for_template(tool: dict[str, Any]) -> dict[str, Any]:
    """A tool as templates see it: vLLM's fields in vLLM's order, without what a client added. Raises NoTokens."""
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise NoTokens(Outcome.REFUSED, "tools: each needs a function with a name")
    if tool.get("type", "function") != "function":
        raise NoTokens(Outcome.REFUSED, "tools: only functions are known")
    shown = {name: function.get(name) for name in ("name", "description", "parameters")}
    deferred = tool.get("defer_loading")
    optional = {"strict": function.get("strict"), "defer_loading": function.get("defer_loading", deferred)}
    shown.update((name, value) for name, value in optional.items() if value is not None)
    result = {"type": "function", "function": shown}
    return result if deferred is None else {**result, "defer_loading": deferred}


def _completion(fields: Fields) -> Prompt:
    if is_token_ids(Kind.COMPLETION, fields):
        return _ids(_read(fields, "prompt", _IDS))
    prompt = _read(fields, "prompt", _PROMPT)
    if isinstance(prompt, list):
        if len(prompt) > 1:
            raise NoTokens(Outcome.UNSUPPORTED, "prompt: there are several")
        prompt = prompt[0] if prompt else None
    if not prompt:
        raise NoTokens(Outcome.REFUSED, "prompt: there is none")
    if isinstance(prompt, str):
        return TextPrompt(prompt, _flag(fields, "add_special_tokens", default=True))
    return _ids(prompt)


def _ids(values: Any) -> TokenIds:
    try:
        return array("I", values)
    except (OverflowError, TypeError):
        raise NoTokens(Outcome.REFUSED, "prompt: not a text and not a list of token ids") from None


def _chat(fields: Fields) -> ChatPrompt:
    messages = _read(fields, "messages", _MESSAGES)
    if not messages:
        raise NoTokens(Outcome.REFUSED, "messages: there are none")
    tools = _read(fields, "tools", _TOOLS)
    if tools == []:
        raise NoTokens(Outcome.REFUSED, "tools: an empty list is not accepted")
    add_generation_prompt = _flag(fields, "add_generation_prompt", default=True)
    continue_final_message = _flag(fields, "continue_final_message", default=False)
    if continue_final_message and add_generation_prompt:
        raise NoTokens(Outcome.REFUSED, "continue_final_message and add_generation_prompt exclude one another")
    return ChatPrompt(
        messages=messages,
        tools=None if tools is None else [tool_for_template(tool) for tool in tools],
        documents=_read(fields, "documents", _DOCUMENTS),
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        special_tokens=_flag(fields, "add_special_tokens", default=False),
        variables=_variables(fields),
    )


def _variables(fields: Fields) -> dict[str, Any]:
    given = _read(fields, "chat_template_kwargs", _KWARGS) or {}
    reserved = _RESERVED & given.keys()
    if reserved:
        raise NoTokens(Outcome.UNSUPPORTED, f"chat_template_kwargs: {min(reserved)} is not the template's")
    variables = {name: value for name, value in given.items() if value not in _UNSET}
    effort = _read(fields, "reasoning_effort", _STR)
    if effort is not None:
        variables["reasoning_effort"] = effort
        if "enable_thinking" not in given:
            variables["enable_thinking"] = effort != "none"
    for name in ("add_generation_prompt", "continue_final_message", "documents"):
        variables.pop(name, None)  # the request's own fields win, their defaults among them
    return variables


def _flag(fields: Fields, name: str, *, default: bool) -> bool:
    value = _read(fields, name, _BOOL)
    return default if value is None else value


def _read(fields: Fields, name: str, decoder: msgspec.json.Decoder[T]) -> T | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        return decoder.decode(raw)
    except UNREADABLE as error:
        raise NoTokens(Outcome.REFUSED, f"{name}: {error}") from None
