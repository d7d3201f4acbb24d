"""The pages of the documentation, and how tests read them."""

import re

from tests.helpers.servers import ROOT

README = (ROOT / "README.md").read_text()
REFERENCE = (ROOT / "docs/reference.md").read_text()
PLATFORMS = (ROOT / "docs/platforms.md").read_text()
OPERATING = (ROOT / "docs/operating.md").read_text()
RELIABILITY = (ROOT / "docs/reliability.md").read_text()
CLAIMS = (ROOT / "docs/claims.md").read_text()
DEPLOYING = (ROOT / "docs/deploying.md").read_text()
UPGRADING = (ROOT / "docs/upgrading.md").read_text()
NGINX = (ROOT / "deploy/nginx/serving-agent.conf").read_text()

_EXAMPLES = {
    "…": "8Zc1vQp0Jx5mWn3Rk7Ty2Lb9Hs4Gd6FfAaEeUuIiOoPp-of-this-test",
    "…,…": "key1,key2",
    "postgres://…": "postgres://u@h/x",
}
"""Values for the placeholders of the pages."""


def table(heading: str, text: str = REFERENCE) -> list[list[str]]:
    """The rows of the first table whose head begins with `heading`, cell by cell."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def word(cell: str) -> str:
    """The text in a cell's first backquotes, or nothing."""
    found = re.search(r"`([^`]*)`", cell)
    return found[1] if found else ""


def documented_production() -> dict[str, str]:
    """The environment that the deploying page shows under "Production settings"."""
    block = re.search(r"## Production settings\n.*?```sh\n(.*?)```", DEPLOYING, re.DOTALL)
    assert block
    lines = (line.split("=", 1) for line in block[1].splitlines() if not line.startswith("#"))
    return {name: _EXAMPLES.get(value, value) for name, value in lines}
