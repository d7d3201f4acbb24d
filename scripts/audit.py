"""Checks every installed package for known vulnerabilities on PyPI: .venv/bin/python scripts/audit.py.

Exit code 0: there are none, or PyPI was not reachable, and the output says so; 1: there are some. (pip-audit itself
prints "No known vulnerabilities found" even if the index knows none of the packages.)
"""

import json
import subprocess
import sys
from typing import Any


def audit() -> list[dict[str, Any]]:
    """Returns pip-audit's entry for each package, or nothing if it could not reach PyPI."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return []
    return found


def report(packages: list[dict[str, Any]]) -> tuple[int, str]:
    """Returns the exit code and the message."""
    answered = [package for package in packages if "skip_reason" not in package]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    lines = [
        f"{package['name']} {package['version']}: {bug['id']}, fixed in {' or '.join(bug['fix_versions']) or 'none'}"
        for package in answered
        for bug in package["vulns"]
    ]
    if lines:
        return 1, "\n".join(["audit: these packages have known vulnerabilities; raise their pins:", *lines])
    if not answered:
        return 0, "audit: NOT DONE: PyPI's list of vulnerabilities is not reachable from here"
    left = f" ({len(unknown)} not checked: {', '.join(unknown)})" if unknown else ""
    return 0, f"audit: no known vulnerabilities in {len(answered)} packages{left}"


if __name__ == "__main__":
    code, message = report(audit())
    sys.stdout.write(f"{message}\n")
    sys.exit(code)
