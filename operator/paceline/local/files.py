"""Files that others read while they are written."""

from __future__ import annotations

import os
from pathlib import Path

from paceline.errors import LocalRuntimeError


def replace(path: Path, document: bytes) -> None:
    """Write ``path`` so that a reader sees the whole document or the one before it.

    Raises LocalRuntimeError if it can't be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(document)
        draft.replace(path)
    except OSError as error:
        raise LocalRuntimeError(f"Can't write {path}: {error.strerror}.") from None
