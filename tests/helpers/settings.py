"""The environment variables that config/settings.py reads."""

import ast

from tests.helpers.servers import ROOT


def _read() -> dict[str, str | None]:
    """Every variable → its default if the code spells it out, else None."""
    found: dict[str, str | None] = {}
    for node in ast.walk(ast.parse((ROOT / "config/settings.py").read_text())):
        if not (isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)):
            continue
        how = ast.unparse(node.func)
        if how.startswith("env.") and how not in ("env.has", "env.rename", "env.warn_if_set"):
            default = next((keyword.value for keyword in node.keywords if keyword.arg == "default"), ast.Constant(""))
            found[node.args[0].value] = _written(default)
    return found


def _written(default: ast.expr | None) -> str | None:
    if isinstance(default, ast.Constant):
        return str(default.value).lower() if isinstance(default.value, bool) else str(default.value)
    if default is not None and (text := ast.unparse(default)).replace(" ", "").replace("*", "").isdigit():
        return str(eval(text))
    return None


SETTINGS = _read()
