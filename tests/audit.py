"""``python -m tests.audit``: known vulnerabilities of what requirements.lock pins, as pip-audit knows them.

pip-audit ends well when its advisory service knows none of the packages, which is what an index without advisories
looks like. So what was audited is counted here: findings fail, and where nothing could be asked it says so in plain
words and does not fail a build that has no way to ask.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
LIMIT_SECONDS: Final = 300


@dataclass(frozen=True)
class Verdict:
    """What came out."""

    audited: int
    passed_over: int
    found: tuple[str, ...]
    trouble: str = ""
    """Why nobody could be asked at all."""

    @property
    def exit_code(self) -> int:
        return 1 if self.found else 0

    def __str__(self) -> str:
        if self.found:
            listed = "\n".join(f"  {line}" for line in self.found)
            return f"{len(self.found)} known vulnerabilities in {self.audited} packages:\n{listed}"
        if not self.audited:
            why = self.trouble or f"the advisory service knows none of {self.passed_over} packages"
            return f"WARNING: NOTHING WAS AUDITED: {why}. Run `make audit` where an advisory service can be reached."
        if self.passed_over:
            rest = f"{self.passed_over} could not be audited"
            return f"WARNING: {self.audited} packages have no known vulnerability; {rest}."
        return f"{self.audited} packages, no known vulnerability."


def verdict(report: str, complaint: str) -> Verdict:
    """From what pip-audit printed: its report in JSON, and what it complained of."""
    try:
        dependencies: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        lines = [line for line in complaint.strip().splitlines() if line.strip()]
        return Verdict(0, 0, (), trouble=lines[-1] if lines else "pip-audit gave no report")
    audited = [one for one in dependencies if "skip_reason" not in one]
    found = tuple(
        f"{one['name']} {one['version']}: {flaw['id']}, mended in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in audited
        for flaw in one.get("vulns", ())
    )
    return Verdict(len(audited), len(dependencies) - len(audited), found)


def main(program: str) -> int:
    command = [program, "--disable-pip", "--require-hashes", "--progress-spinner", "off", "-f", "json"]
    command += ["-r", str(ROOT / "requirements.lock")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
        result = verdict(done.stdout, done.stderr)
    except subprocess.TimeoutExpired:
        result = Verdict(0, 0, (), trouble=f"no answer within {LIMIT_SECONDS} s")
    print(result, file=sys.stderr)
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "pip-audit"))
