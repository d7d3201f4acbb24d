"""The audit reports its findings, and fails if the database does not answer. Requirements are pinned exactly."""

import re
from typing import Any

import pytest

from scripts.audit import report
from tests.helpers.servers import ROOT

CLEAN: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
HURT: dict[str, Any] = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
UNKNOWN: dict[str, Any] = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([CLEAN], 0, "no known vulnerabilities in 1 packages"),
        ([CLEAN, UNKNOWN], 0, "1 not checked: c"),
        ([CLEAN, HURT, UNKNOWN], 1, "b 2: CVE-1, fixed in 2.1"),
        ([UNKNOWN], 0, "NOT DONE"),
        ([], 0, "NOT DONE"),
    ],
)
def test_the_report(packages: list[dict[str, Any]], code: int, words: str) -> None:
    exit_code, said = report(packages)
    assert exit_code == code
    assert words in said


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-run.txt", "requirements-dev.txt"])
def test_every_pin_is_exact(name: str) -> None:
    for line in (ROOT / name).read_text().splitlines():
        if line.strip() and not line.startswith(("#", "-r ")):
            assert re.match(r"[A-Za-z0-9._-]+(\[[a-z0-9,-]+\])?==[0-9][A-Za-z0-9.]*(\s*;.*)?$", line), line
