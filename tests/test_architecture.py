"""The direction of imports, as ARCHITECTURE.md draws it; imports inside functions count too."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["config", "webhooks", "predictions", "platforms"]
"""From the top down: each may import those that follow it."""
LAYERS = [
    {"api", "admin", "templatetags", "management", "checks", "apps"},
    {"jobs"},
    {"submission", "operations"},
    {"execution", "worker"},
    {"queue"},
    {"lifecycle", "uploads"},
    {"statements"},
    {"models", "recorder", "database", "redis", "telemetry", "server", "ids"},
]
"""Inside predictions, from the top down."""
ONLY_IN = {
    "rq": ["predictions/queue/", "predictions/worker/", "predictions/redis/"],
    "redis": ["predictions/queue/", "predictions/worker/", "predictions/redis/"],
    "requests": ["predictions/operations/diagnosis/"],
    "urllib3": ["platforms/connection.py", "platforms/http.py", "platforms/reply.py"],
    "certifi": ["platforms/connection.py"],
    "orjson": ["platforms/parsing.py"],
    "psycopg": ["predictions/database/"],
    "opentelemetry": ["predictions/telemetry/tracing.py"],
    "prometheus_client": ["predictions/telemetry/", "predictions/operations/metrics.py"],
}


def modules() -> dict[str, Path]:
    """Dotted name → file, of everything that is the agent's."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if "migrations" not in path.parts:
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports(name: str, path: Path) -> set[str]:
    """The modules a file imports, as far as they are written out; type-checking imports are not counted."""
    tree = ast.parse(path.read_text())
    skipped = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name}: relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in MODULES else node.module for full in whole}
    return found - {name}


IMPORTS = {name: imports(name, path) for name, path in MODULES.items()}
OURS = {name: {target for target in targets if target in MODULES} for name, targets in IMPORTS.items()}


@pytest.mark.parametrize("name", MODULES)
def test_packages_import_downwards_only(name: str) -> None:
    above = PACKAGES[: PACKAGES.index(name.split(".")[0])]
    assert not [target for target in OURS[name] if target.split(".")[0] in above]


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("predictions.")])
def test_layers_of_the_core_import_downwards_only(name: str) -> None:
    def layer(module: str) -> int:
        part = module.split(".")[1]
        ranks = [rank for rank, parts in enumerate(LAYERS) if part in parts]
        assert ranks, f"{module} has no layer: put it into LAYERS and into ARCHITECTURE.md"
        return ranks[0]

    targets = [target for target in OURS[name] if target.startswith("predictions.")]
    assert not [target for target in targets if layer(target) < layer(name)]


def test_no_two_modules_import_each_other_in_a_circle() -> None:
    graph = {
        name: {target for target in targets if not name.startswith(target + ".")} for name, targets in OURS.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_in_its_place_only(library: str) -> None:
    users = {name for name, targets in IMPORTS.items() if any(target.split(".")[0] == library for target in targets)}
    files = {str(MODULES[name].relative_to(ROOT)) for name in users}
    assert files
    assert not [file for file in files if not file.startswith(tuple(ONLY_IN[library]))]


WRITERS = {
    "save": ["predictions.uploads"],
    "bulk_create": ["predictions.operations.rollups"],
    "update": ["predictions.lifecycle"],
    "delete": ["predictions.uploads", "predictions.operations.maintenance", "predictions.operations.rollups"],
}
"""Methods that write rows → the modules that call them. `delete` counts only on what the ORM returned."""


def writes(path: Path) -> set[str]:
    """Calls of the ORM that write rows. `update(mapping)` is a dictionary's, `update(name=value)` a query's."""
    found = set()
    for call in ast.walk(ast.parse(path.read_text())):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        name = call.func.attr
        if name == "update" and not call.keywords:
            continue
        if name == "delete" and (call.args or "objects" not in ast.unparse(call.func)):
            continue
        if name in WRITERS or name in ("bulk_update", "get_or_create", "update_or_create"):
            found.add(name)
    return found


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith(("predictions", "webhooks"))])
def test_a_status_changes_in_lifecycle_alone(name: str) -> None:
    """Every other module that writes rows writes no task's status: files, counts, and ended tasks to delete."""
    assert {method for method in writes(MODULES[name]) if name not in WRITERS.get(method, [])} == set()


@pytest.mark.parametrize("name", MODULES)
def test_tasks_are_written_by_sql_in_statements_alone(name: str) -> None:
    texts = [
        node.value
        for node in ast.walk(ast.parse(MODULES[name].read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    found = [text for text in texts if re.match(r"\s*(?:UPDATE|INSERT INTO|DELETE FROM)\s", text)]
    # The diagnosis asks whether the database takes writes, with an UPDATE that matches no row.
    assert not found or name in ("predictions.statements", "predictions.operations.diagnosis.database")


def test_settings_are_the_only_reader_of_the_environment() -> None:
    for name, path in MODULES.items():
        if name not in ("config.settings", "config.gunicorn", "config.wsgi"):
            assert not {"os.environ", "getenv"} & set(re.findall(r"os\.environ|getenv", path.read_text())), name


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_share_code_through_helper_modules_only(path: Path) -> None:
    imported = imports(str(path.relative_to(ROOT)), path)
    assert not [name for name in imported if re.match(r"tests\.(?:\w+\.)*(?:test_\w+|conftest)\b", name)]
