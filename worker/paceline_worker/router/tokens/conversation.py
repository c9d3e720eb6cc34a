"""Messages of a chat request as vLLM 0.32 hands them to a chat template: content flattened, tool calls parsed.

A template sees only what is put in here, in this order of keys, because templates may print whole messages as JSON.
Pure; called by :mod:`.template`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from paceline_worker.router.tokens.errors import NoTokens, Outcome

Message = dict[str, Any]

_TEXT_FIELD: Final = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "thinking": "thinking",
    "refusal": "refusal",
}
"""Kinds of content parts that are text, and where the text is."""
_MAY_BE_EMPTY: Final = frozenset({"text", "refusal"})
"""Kinds whose parts are left out when they have no text."""
_PART_FIELDS: Final = frozenset(
    {
        "audio_embeds", "audio_url", "closed", "data", "file", "image_embeds", "image_pil", "image_url", "input_audio",
        "name", "prompt_cache_breakpoint", "refusal", "text", "thinking", "type", "uuid", "video_embeds", "video_url",
    }
)  # fmt: skip
"""Fields of content parts that vLLM knows. Others it passes on to the template."""
_BILLING_LINE: Final = "x-anthropic-billing-header"
"""First line of a system text that changes with every request of one client; vLLM cuts it off."""


def conversation(messages: Sequence[Any], *, parts: bool) -> list[Message]:
    """The messages for a template that wants content as a list of ``parts``, or else as one string. Raises NoTokens."""
    return [_message(message, parts=parts) for message in messages]


def without_developers(messages: Sequence[Message]) -> list[Message]:
    """For templates that don't know the role ``developer``: they become one ``system``, at the beginning."""
    renamed = [_as_system(message) if message["role"] == "developer" else message for message in messages]
    system = [index for index, message in enumerate(renamed) if message["role"] == "system"]
    if system in ([], [0]):
        return renamed
    texts = [_flat(renamed[index].get("content", "")) for index in system]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(message for message in renamed if message["role"] != "system")]


def _as_system(message: Message) -> Message:
    return {**{name: value for name, value in message.items() if name != "tools"}, "role": "system"}


def _flat(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if "text" in part)


def _message(message: Any, *, parts: bool) -> Message:
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str):
        raise NoTokens(Outcome.REFUSED, "messages: each is an object with a role")
    result: Message = {"role": role, "content": _content(message.get("content"), role, parts=parts)}
    if role == "assistant":
        _add_assistant(result, message)
    elif role == "tool":
        if "tool_call_id" in message:
            result["tool_call_id"] = message["tool_call_id"]
        result["content"] = _flat(result["content"])
    for name in ("name", "task"):
        if isinstance(message.get(name), str):
            result[name] = message[name]
    if role == "developer":
        result["tools"] = message.get("tools")
    return result


def _content(content: Any, role: str, *, parts: bool) -> str | list[Message]:
    given = [] if content is None else [content] if isinstance(content, str) else content
    if not isinstance(given, list):
        raise NoTokens(Outcome.REFUSED, "messages: content is a text or a list of parts")
    if role == "system":
        given = [part for part in map(_without_billing, given) if part is not None]
    texts = [part for part in map(_part, given) if part is not None]
    return texts if parts else "\n".join(part["text"] for part in texts)


def _without_billing(part: Any) -> Any:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
    if not isinstance(text, str) or not text.startswith(_BILLING_LINE):
        return part
    rest = text.partition("\n")[2]
    if not rest:
        return None
    return {**part, "text": rest} if isinstance(part, dict) else rest


def _part(part: Any) -> Message | None:
    """A text part in the one form that templates see; None for one without text."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, dict):
        raise NoTokens(Outcome.REFUSED, "messages: a part of the content is a text or an object")
    kind = part.get("type")
    field = _TEXT_FIELD.get(kind) if isinstance(kind, str) else None
    if field is None or part.get("uuid") is not None:
        raise NoTokens(Outcome.UNSUPPORTED, "messages: not only text")
    text = part.get(field)
    if text is None and kind in _MAY_BE_EMPTY:
        return None
    if not isinstance(text, str):
        raise NoTokens(Outcome.REFUSED, f"messages: the {field} of a part is a string")
    return {"type": "text", "text": text, **_without(part, _PART_FIELDS)}


def _add_assistant(result: Message, message: Message) -> None:
    calls = message.get("tool_calls")
    if calls is not None:
        if not isinstance(calls, list):
            raise NoTokens(Outcome.REFUSED, "messages: tool_calls is a list")
        if calls:
            result["tool_calls"] = [_tool_call(call) for call in calls]
    reasoning = message.get("reasoning")
    if reasoning is None:
        reasoning = message.get("reasoning_content")  # its deprecated name
    if reasoning is not None:
        result["reasoning"] = result["reasoning_content"] = reasoning


def _tool_call(call: Any) -> Message:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type") != "function":
        raise NoTokens(Outcome.REFUSED, "messages: tool_calls are calls of functions")
    arguments, name = function.get("arguments"), function.get("name")
    if not (isinstance(arguments, str) and isinstance(name, str) and isinstance(call.get("id"), str)):
        raise NoTokens(Outcome.REFUSED, "messages: a tool call has an id, and its function name and arguments as text")
    return {
        "id": call["id"],
        "function": {
            "arguments": _arguments(arguments),
            "name": name,
            **_without(function, {"arguments", "name"}),
        },
        "type": "function",
        **_without(call, {"id", "function", "type"}),
    }


def _without(values: Message, known: AbstractSet[str]) -> Message:
    return {name: value for name, value in values.items() if name not in known}


def _arguments(text: str) -> Message:
    """Arguments as an object. What is none, is an empty one: it is in the history and must not end the conversation."""
    if not text:
        return {}
    try:
        # Not msgspec: how a number is written matters to templates that print it, and vLLM reads it with this.
        parsed = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}
