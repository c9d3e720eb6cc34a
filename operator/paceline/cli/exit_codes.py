"""The exit codes of every command, with their meaning: one table, for the help and for docs/reference/cli.md.

Errors carry theirs (:mod:`paceline.errors`); a test holds that each one is listed here.
"""

from __future__ import annotations

from typing import Final

FINE: Final = 0
NOT_FINE: Final = 1
BUG: Final = 70
"""EX_SOFTWARE of sysexits."""
INTERRUPTED: Final = 130

MEANINGS: Final = {
    FINE: "done, and what was asked about is fine",
    NOT_FINE: "what was asked about is not fine: a deployment is not ready, no fleet will do, a request failed",
    2: "wrong flags, or a file that is not valid; the message names field and fix",
    3: "valid, but this machine can't do it",
    4: "an engine or a router does not answer, or answers garbage",
    5: "the local cluster can't start or can't go on",
    6: "the Kubernetes API server can't be reached, refuses the request, or has no such object",
    7: "an engine's accelerator, or what joins accelerators, failed (engine workers only)",
    BUG: "a bug: please report it",
    INTERRUPTED: "interrupted with Ctrl-C",
}
