"""Reading the manifest that a command names: a file, or ``-`` for standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from paceline.errors import ConfigError

if TYPE_CHECKING:
    from paceline.api.v1alpha1 import ModelDeployment

STDIN: Final = "-"
MAX_BYTES: Final = 4 * 1024 * 1024
"""More is not read at all; the loader's own bound is lower and says so."""


def read_manifest(name: str) -> ModelDeployment:
    """Read and validate. Raises ConfigError if there is nothing to read, SpecError if it is not valid."""
    from paceline.api.v1alpha1 import load

    if name == STDIN:
        return load(sys.stdin.buffer.read(MAX_BYTES), "standard input")
    try:
        with Path(name).open("rb") as file:
            text = file.read(MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"{name}: can't read the manifest: {error.strerror}.") from None
    except ValueError as error:
        raise ConfigError(f"{name!r} is not a file name: {error}.") from None
    return load(text, name)
