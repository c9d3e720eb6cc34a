"""What all wire documents are: strict, frozen, camelCase, and how they are read and written."""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from paceline.errors import ConfigError
from paceline.unreadable import UNREADABLE

Port = Annotated[int, Meta(ge=1, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[int, Meta(ge=0)]
Percent = Annotated[int, Meta(ge=1, le=100)]


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of the documents. Each repeats ``frozen`` and ``kw_only``: type checkers don't see them inherited."""


T = TypeVar("T", bound=Document)


def decode(kind: type[T], document: bytes | str, *, source: str) -> T:
    """Read one wire document. ``source`` names it in the ConfigError that bad input raises."""
    try:
        return msgspec.json.decode(document, type=kind)
    except UNREADABLE as error:
        raise ConfigError(f"{source} is not a valid {kind.__name__}: {error}") from None


def encode(document: Document) -> bytes:
    """Write one wire document as JSON with sorted keys, so that equal documents are equal bytes."""
    return msgspec.json.encode(document, order="deterministic")
