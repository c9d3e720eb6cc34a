"""API keys from files, one for each tenant, that may change at any time: Secrets that the kubelet mounts and renews.

``door`` asks whose a key is; ``app`` runs :meth:`KeyRing.follow`. Kept are digests only.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 1.0
MIN_KEY_BYTES: Final = 16
MAX_KEY_BYTES: Final = 512
MAX_KEYS: Final = 64
"""Of one tenant."""
MAX_FILE_BYTES: Final = 64 * 1024
SCHEME: Final = b"bearer"
_HINT_BYTES: Final = 8

Stamp = tuple[int, int, int]
Digests = tuple[bytes, ...]


class KeyRing:
    """The keys of ``tenants``, each in a file of its name in ``folder``, one a line; empty lines and # are passed over.

    Digests are HMAC-SHA-256 under ``pepper``, which is drawn anew by each process. Nobody outside can make digests that
    resemble one another, so the time that a look-up takes says nothing about keys; what is found is compared in
    constant time.
    """

    def __init__(self, folder: Path, tenants: Sequence[str], pepper: bytes) -> None:
        self._files = {tenant: folder / tenant for tenant in tenants}
        self._pepper = pepper
        self._stamps: dict[str, Stamp | None] = {}
        self._digests: dict[str, Digests] = {}
        self._owners: dict[bytes, tuple[bytes, str]] = {}
        """Digest and tenant, by the first bytes of the digest."""
        self.changes = 0
        """Times that a tenant's keys were read."""

    @property
    def counts(self) -> Mapping[str, int]:
        """Keys in force, by tenant."""
        return {tenant: len(self._digests.get(tenant, ())) for tenant in self._files}

    def owner(self, authorization: bytes | None) -> str | None:
        """The tenant whose key an ``Authorization`` header holds; None for any other header, or none."""
        scheme, _, key = (authorization or b"").partition(b" ")
        digest = self._digest(key.strip())
        found, tenant = self._owners.get(digest[:_HINT_BYTES], (b"", ""))
        same = hmac.compare_digest(found, digest)
        return tenant if same and scheme.lower() == SCHEME else None

    def read(self) -> None:
        """Read what has changed. A file that is gone takes its keys along; one that can't be read leaves them."""
        changed = False
        for tenant, path in self._files.items():
            changed = self._read(tenant, path) or changed
        if changed:
            self._owners = self._by_digest()

    async def follow(self) -> None:
        """Read again and again until cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await asyncio.to_thread(self.read)

    def _read(self, tenant: str, path: Path) -> bool:
        try:
            found = path.stat()
            stamp: Stamp | None = (found.st_mtime_ns, found.st_ino, found.st_size)
        except FileNotFoundError:
            stamp = None
        except OSError as error:
            log.warning("the keys of tenant %s can't be looked at: %s", tenant, error.strerror)
            return False
        if tenant in self._stamps and stamp == self._stamps[tenant]:
            return False
        try:
            text = b"" if stamp is None else path.read_bytes()[: MAX_FILE_BYTES + 1]
        except OSError as error:
            log.warning("the keys of tenant %s can't be read, the last ones stay: %s", tenant, error.strerror)
            return False
        self._stamps[tenant] = stamp
        self._digests[tenant] = self._keys(tenant, text)
        self.changes += 1
        log.info("tenant %s has %d keys", tenant, len(self._digests[tenant]))
        return True

    def _keys(self, tenant: str, text: bytes) -> Digests:
        """Digests of the keys of a file. What is wrong with it is told by line, never by content."""
        if len(text) > MAX_FILE_BYTES:
            log.error("the keys of tenant %s are over %d bytes: none is taken", tenant, MAX_FILE_BYTES)
            return ()
        keys: list[bytes] = []
        for number, line in enumerate(text.split(b"\n"), 1):
            key = line.strip()
            if not key or key.startswith(b"#"):
                continue
            if not (MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES and key.isascii() and _is_one_word(key)):
                log.error(
                    "tenant %s: line %d is no key: %d to %d printable characters without spaces are allowed",
                    tenant, number, MIN_KEY_BYTES, MAX_KEY_BYTES,
                )  # fmt: skip
            elif len(keys) == MAX_KEYS:
                log.error("tenant %s has more than %d keys; the others are not taken", tenant, MAX_KEYS)
                break
            else:
                keys.append(self._digest(key))
        return tuple(keys)

    def _by_digest(self) -> dict[bytes, tuple[bytes, str]]:
        owners: dict[bytes, tuple[bytes, str]] = {}
        for tenant in self._files:
            for digest in self._digests.get(tenant, ()):
                before = owners.setdefault(digest[:_HINT_BYTES], (digest, tenant))[1]
                if before != tenant:
                    log.error("tenants %s and %s have a key in common: it stays that of %s", before, tenant, before)
        return owners

    def _digest(self, key: bytes) -> bytes:
        return hmac.digest(self._pepper, key, "sha256")


def _is_one_word(key: bytes) -> bool:
    return all(0x21 <= byte <= 0x7E for byte in key)
