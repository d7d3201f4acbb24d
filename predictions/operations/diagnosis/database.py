"""The database: reachable, migrated, writable, fit for what it carries."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, InterfaceError, NotSupportedError, connections
from django.db.migrations.executor import MigrationExecutor

from platforms import Health
from platforms.health import ok, problem, warning
from predictions.operations.diagnosis.formatting import check_disk, first_line

CONNECT_SECONDS = 5
CROWDED = 0.8
_WRITES_NOTHING = "UPDATE predictions_task SET updated_at = updated_at WHERE 1 = 0"


@contextmanager
def unpooled_database() -> Iterator[None]:
    """Inside the block this thread's queries go through a connection of its own.

    The pool would wait for long, and then only say that it has none to give.
    """
    own = connections["default"].copy()
    own.settings_dict["OPTIONS"] = options = {**own.settings_dict["OPTIONS"]}
    if options.pop("pool", None):
        options["connect_timeout"] = CONNECT_SECONDS
    connections["default"] = own
    try:
        yield
    finally:
        own.close()
        del connections["default"]


def check_database() -> Iterator[Health]:
    own = connections["default"]
    try:
        own.ensure_connection()
    except (DatabaseError, InterfaceError, NotSupportedError) as error:
        yield problem(f"it cannot be reached: {first_line(error)}", "Is DATABASE_URL right, and the server running?")
        return
    version = ".".join(str(number) for number in own.get_database_version())
    known, is_sqlite = own.settings_dict, own.vendor == "sqlite"
    where = known["NAME"] if is_sqlite else f"{known['HOST']}:{known['PORT']}/{known['NAME']}"
    yield ok(f"{own.display_name} {version}, {where}")
    executor = MigrationExecutor(own)
    if plan := executor.migration_plan(executor.loader.graph.leaf_nodes()):
        yield problem(f"{len(plan)} migrations are not applied, from {plan[0][0]} on", "Run `manage.py migrate`.")
        return
    try:
        with own.cursor() as cursor:
            cursor.execute(_WRITES_NOTHING)
    except DatabaseError as error:
        yield problem(
            f"it cannot be written to: {first_line(error)}",
            "Point DATABASE_URL to the primary, with an account that may write.",
        )
    if is_sqlite and settings.PRODUCTION:
        yield warning(
            "SQLite in production: every process must be on this host, and one writes at a time",
            "Set DATABASE_URL=postgres://user:password@host/name.",
        )
    if is_sqlite:
        yield from check_disk(Path(known["NAME"]).parent)
        return
    with own.cursor() as cursor:
        cursor.execute("SELECT count(*), current_setting('max_connections')::int FROM pg_stat_activity")
        used, limit = cursor.fetchone()
    if used > CROWDED * limit:
        yield warning(
            f"{used} of its {limit} connections are used",
            f"Raise max_connections, or lower DATABASE_POOL_SIZE ({settings.DATABASE_POOL_SIZE} for each process).",
        )
