"""Whether a conversation asks engines to fetch something: media whose addresses are in its messages.

vLLM fetches what ``image_url``, ``video_url`` and ``audio_url`` name, from whatever host the engine reaches: a client
would choose where engines connect to. Called by the parse of every request with messages; those without the letters of
such a name cost two searches.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from paceline.api.wire import Media
from paceline.unreadable import UNREADABLE
from paceline_worker.router.errors import ApiError

_NAMES: Final = frozenset({"image_url", "video_url", "audio_url"})
_LETTERS: Final = b"_url"
_ESCAPED: Final = b"\\u00"
"""The letters may be written as escapes; nobody does who means well."""
_INLINE: Final = "data:"
_ANY: Final = msgspec.json.Decoder(Any)

_FIX: Final = {
    Media.REFUSE: "leave it out",
    Media.DATA_URLS: "send it inline, as data:TYPE;base64,DATA",
}


def check_media(messages: bytes, policy: Media) -> None:
    """Raise ApiError 400 for an address that is not allowed. ``messages``: the field as it stands in the body."""
    if policy is Media.ANY or (_LETTERS not in messages and _ESCAPED not in messages):
        return
    try:
        document = _ANY.decode(messages)
    except UNREADABLE as error:
        raise ApiError(400, f"messages: {error}", param="messages") from None
    waiting: list[Any] = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            for name, item in value.items():
                if name in _NAMES:
                    _check(name, item, policy)
                elif isinstance(item, list | dict):
                    waiting.append(item)


def _check(name: str, value: Any, policy: Media) -> None:
    address = value.get("url") if isinstance(value, dict) else value
    if address is None:
        return  # vLLM takes media by an id that it has seen before
    if policy is Media.DATA_URLS and isinstance(address, str) and address.startswith(_INLINE):
        return
    raise ApiError(
        400, f"messages: {name}: engines fetch no media from addresses here; {_FIX[policy]}.", param="messages"
    )
