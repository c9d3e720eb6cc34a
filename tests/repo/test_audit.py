"""An audit that asked nobody is never taken for one that found nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.audit import verdict

GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"], "aliases": []}]}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (1)"}


def report(*dependencies: dict[str, Any]) -> str:
    return json.dumps({"dependencies": dependencies, "fixes": []})


def test_a_finding_fails_and_names_the_version_that_mends_it() -> None:
    found = verdict(report(GOOD, BAD, UNKNOWN), "")
    assert found.exit_code == 1
    assert "b 2: PYSEC-1, mended in 3" in str(found)


def test_packages_that_nobody_knows_are_no_good_news() -> None:
    found = verdict(report(UNKNOWN, UNKNOWN), "No known vulnerabilities found")
    assert found.exit_code == 0
    assert "NOTHING WAS AUDITED: the advisory service knows none of 2 packages" in str(found)


@pytest.mark.parametrize(("out", "complaint"), [("", "ConnectionError: no route\n"), ("[]", ""), ("{}", "x")])
def test_no_report_is_said_with_its_reason_and_fails_no_build(out: str, complaint: str) -> None:
    found = verdict(out, complaint)
    assert found.exit_code == 0
    assert "NOTHING WAS AUDITED" in str(found)
    assert complaint.strip() in str(found)


def test_a_part_that_was_not_audited_is_said() -> None:
    assert "1 could not be audited" in str(verdict(report(GOOD, UNKNOWN), ""))
    assert str(verdict(report(GOOD), "")) == "1 packages, no known vulnerability."
