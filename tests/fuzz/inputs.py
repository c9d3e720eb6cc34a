"""Inputs that nobody sane would send: bytes that are changed at random, and JSON that is wrong in one place.

Everything is drawn from a `random.Random` that the caller seeds, so an input can be made again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

MAX_CHANGES: Final = 6
MAX_BYTES: Final = 64 * 1024
"""Of one input: limits on size have tests of their own, and large inputs are slow ones."""

TOKENS: Final = (
    b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b" ", b"\t", b",", b":", b";", b'"', b"\\", b"\\u0000", b"\\ud800",
    b"{", b"}", b"[", b"]", b"[[[[[[[[", b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"\xff", b"\xc0\x80",
    b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x80", b"99999999999999999999", b"-9223372036854775809", b"0x10", b"+1", b"%00",
    "²".encode(), "١".encode(), "\u2028".encode(), b"${jndi:x}", b"../../etc/passwd", b"__proto__",
)  # fmt: skip
"""Where parsers part: ends of lines, of strings and of numbers, and what is no UTF-8."""

ODD: Final = (
    None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 2**70, 10**400, 0.5, -0.0, 1e308, "", " ", "\0",
    "\ud800", "\udfff\ud800", "a" * 300, "²", "١٢", "\u202e", "0", "-1", "1e3", "NaN", [], {}, [[]], [None], {"": None},
    [{}], {"a": {"a": {"a": {}}}}, ["x"] * 20,
)  # fmt: skip
"""Values of a wrong type or at the edge of a right one."""


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes] = (), tokens: Sequence[bytes] = TOKENS) -> bytes:
    """``data`` with a few changes at random places; pieces of ``others`` are among what is put in."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, MAX_CHANGES)):
        rng.choice(_CHANGES)(rng, changed, others, tokens)
    return bytes(changed[:MAX_BYTES])


def _place(rng: random.Random, data: bytearray) -> int:
    return rng.randint(0, len(data))


def _flip(rng: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set(rng: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _insert(rng: random.Random, data: bytearray, _: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    at = _place(rng, data)
    data[at:at] = rng.choice(tokens)


def _replace(rng: random.Random, data: bytearray, _: Sequence[bytes], tokens: Sequence[bytes]) -> None:
    at = _place(rng, data)
    data[at : at + rng.randint(1, 8)] = rng.choice(tokens)


def _delete(rng: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    at = _place(rng, data)
    del data[at : at + rng.choice((1, 1, 2, 4, 16, 256))]


def _repeat(rng: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    at = _place(rng, data)
    piece = data[at : at + rng.choice((1, 2, 8, 64))]
    data[at:at] = piece * rng.choice((1, 1, 2, 16, 200))


def _cut(rng: random.Random, data: bytearray, _: Sequence[bytes], __: Sequence[bytes]) -> None:
    del data[_place(rng, data) :]


def _splice(rng: random.Random, data: bytearray, others: Sequence[bytes], __: Sequence[bytes]) -> None:
    if others:
        other = rng.choice(others)
        begin = rng.randint(0, len(other))
        at = _place(rng, data)
        data[at : at + rng.choice((0, 0, 16, MAX_BYTES))] = other[begin : begin + rng.choice((4, 32, MAX_BYTES))]


Change = Callable[[random.Random, bytearray, Sequence[bytes], Sequence[bytes]], None]
_CHANGES: Final[tuple[Change, ...]] = (_flip, _set, _insert, _insert, _replace, _delete, _repeat, _cut, _splice)


def spoiled(rng: random.Random, document: Any, names: Sequence[str] = ()) -> Any:
    """A copy of a JSON document with one to three values replaced, dropped, or put where they do not belong."""
    copy = json.loads(json.dumps(document))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parents = list(_containers(copy))
        if not parents:
            return rng.choice(ODD)
        _spoil(rng, rng.choice(parents), names)
    return copy


def _containers(value: Any) -> list[Any]:
    found, seen = [value] if isinstance(value, dict | list) else [], 0
    while seen < len(found):
        current = found[seen]
        seen += 1
        found += [item for item in (current.values() if isinstance(current, dict) else current)
                  if isinstance(item, dict | list)]  # fmt: skip
    return found


def _spoil(rng: random.Random, parent: Any, names: Sequence[str]) -> None:
    keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    if isinstance(parent, dict) and (not keys or rng.random() < 0.3):
        parent[rng.choice(names) if names and rng.random() < 0.9 else rng.choice(("x", "", "\0", "a.b"))] = odd(rng)
        return
    if not keys:
        parent.append(odd(rng))
        return
    key = rng.choice(keys)
    match rng.randrange(6):
        case 0:
            del parent[key]
        case 1 if isinstance(parent, list):
            parent.append(parent[key])
        case 2:
            parent[key] = [parent[key]]
        case 3:
            parent[key] = near(rng, parent[key])
        case _:
            parent[key] = odd(rng)


def odd(rng: random.Random) -> Any:
    """A value that is hardly ever right."""
    # A copy: the same list in two places would be a loop when one is put into the other.
    return json.loads(json.dumps(rng.choice(ODD)))


def near(rng: random.Random, value: Any) -> Any:
    """A value that is almost another."""
    if isinstance(value, bool) or value is None:
        return odd(rng)
    if isinstance(value, int):
        return value + rng.choice((-1, 1, -value, 10**6, 2**31))
    if isinstance(value, str):
        return rng.choice((value + "x", value[:-1], value.upper(), value + "\n", " " + value, value * 70, "-" + value))
    return odd(rng)


def json_bytes(rng: random.Random, document: Any) -> bytes:
    """JSON text of a document; now and then with a key twice, deep nesting, or a number that no double holds."""
    text = json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    match rng.randrange(12):
        case 0 if text.startswith(b"{"):
            text = text[:-1] + b"," + text[1:] if len(text) > 2 else text
        case 1:
            depth = rng.choice((3, 60, 130, 1100, 5000))
            nested = b"[" * depth + b"]" * depth
            text = text.replace(b"null", nested, 1) if b"null" in text else text[:-1] + b',"deep":' + nested + b"}"
        case 2:
            text = text.replace(b"1", rng.choice((b"1e999", b"1" * 400, b"-0", b"1.0", b"01", b"NaN")), 1)
        case 3:
            text = text.replace(b'"', rng.choice((b'"\\ud800', b'"\\u0000', b'"\xff', b"'")), 2)
        case _:
            pass
    return text[:MAX_BYTES]
