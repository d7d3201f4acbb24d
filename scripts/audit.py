"""Asks PyPI for known vulnerabilities of every installed package: .venv/bin/python scripts/audit.py.

Exit code 0: none is known, or nobody could be asked, which is then said; 1: there are some. (pip-audit by itself says
"No known vulnerabilities found" also where the index it asks has never heard of a single package.)
"""

import json
import subprocess
import sys
from typing import Any


def asked() -> list[dict[str, Any]]:
    """What pip-audit tells of each package; empty where it could not ask."""
    command = [sys.executable, "-m", "pip_audit", "--local", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return []
    return found


def report(packages: list[dict[str, Any]]) -> tuple[int, str]:
    """The exit code, and what to say."""
    answered = [package for package in packages if "skip_reason" not in package]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    lines = [
        f"{package['name']} {package['version']}: {bug['id']}, mended in {' or '.join(bug['fix_versions']) or 'none'}"
        for package in answered
        for bug in package["vulns"]
    ]
    if lines:
        return 1, "\n".join(["audit: these packages have known vulnerabilities; raise their pins:", *lines])
    if not answered:
        return 0, "audit: NOT DONE: PyPI's list of vulnerabilities cannot be asked from here"
    left = f" ({len(unknown)} could not be asked about: {', '.join(unknown)})" if unknown else ""
    return 0, f"audit: no known vulnerabilities in {len(answered)} packages{left}"


if __name__ == "__main__":
    code, said = report(asked())
    sys.stdout.write(f"{said}\n")
    sys.exit(code)
