"""Files of API keys, and the headers that are compared with them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from paceline_worker.router.tenants.keys import MAX_KEY_BYTES, MAX_KEYS, MIN_KEY_BYTES, KeyRing
from tests.fuzz.documents import scratch
from tests.fuzz.inputs import mutated
from tests.fuzz.target import Found, Plain

_FILE: Final = b"# of the first\nsk-0123456789abcdef\n\nsk-fedcba9876543210  \r\n" + b"k" * 512 + b"\n"
_TOKENS: Final = (
    b"\n", b"\r\n", b"\0", b" ", b"#", b"\xff", b"\t", b"\x0b", b"\x85", b"\xa0", b"x" * 520, b"sk-0123456789abcdef\n",
    b"a" * 15 + b"\n", b"b" * 16 + b"\n", b"\xef\xbb\xbf",
)  # fmt: skip


class Keys(Plain):
    """One tenant's file beside another's that is as it should be."""

    name = "keys"
    share = 6

    def __init__(self) -> None:
        self._folder = Path(scratch()) / "keys"
        self._folder.mkdir(exist_ok=True)
        (self._folder / "good").write_text("good-key-0123456789\n")

    def make(self, rng: random.Random) -> bytes:
        return mutated(rng, _FILE, (_FILE,), _TOKENS)

    def check(self, data: bytes) -> None:
        (self._folder / "fuzzed").write_bytes(data)
        ring = KeyRing(self._folder, ["fuzzed", "good"], b"pepper" * 6)
        ring.read()
        if ring.owner(b"Bearer good-key-0123456789") not in ("good", "fuzzed"):
            raise Found("one tenant's file keeps another out")
        if ring.counts["fuzzed"] > MAX_KEYS:
            raise Found("more keys than are allowed")
        for line in data.split(b"\n"):
            key = line.strip()
            good = MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES and all(0x21 <= byte <= 0x7E for byte in key)
            owner = ring.owner(b"Bearer " + key)
            if owner is not None and (not good or key.startswith(b"#")) and key != b"":
                raise Found(f"a line that is no key lets in {owner}")
        for header in (data[:100], b"Bearer " + data[:100], b"Bearer", b"Bearer ", None):
            if ring.owner(header) == "fuzzed" and (header is None or len(header) < MIN_KEY_BYTES):
                raise Found("a header without a key is let in")


TARGETS: Final = (Keys,)
