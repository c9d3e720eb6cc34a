"""``python -m paceline.observability``: write what this package makes into a checkout (``make generate``)."""

from __future__ import annotations

import sys
from pathlib import Path

from paceline.observability.generate import write_all

if __name__ == "__main__":
    write_all(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
