"""Migrations that the release before can live with: during a rollout, its processes work on the new database."""

from importlib import import_module

import pytest
from django.core.management import call_command
from django.db import connection, migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.migrations.recorder import MigrationRecorder
from django.test.utils import CaptureQueriesContext

from predictions.database.indexes import AddIndexConcurrently
from tests.helpers.servers import ROOT

FIRST = "0001_initial"
LATER = sorted(path.stem for path in (ROOT / "predictions/migrations").glob("0*.py") if path.stem != FIRST)
HARMLESS = (
    migrations.AddIndex,
    migrations.RemoveIndex,
    migrations.AlterModelOptions,
    migrations.CreateModel,
    migrations.RunPython,
)


def is_harmless(operation: Operation) -> bool:
    """Whether code that does not know of it can go on reading and writing."""
    if isinstance(operation, migrations.AddField):
        field = operation.field
        return field.null or field.many_to_many or field.db_default is not models.NOT_PROVIDED
    return isinstance(operation, HARMLESS)


@pytest.mark.parametrize("name", LATER)
def test_the_release_before_can_go_on_with_a_migrated_database(name: str) -> None:
    migration = import_module(f"predictions.migrations.{name}").Migration
    assert [operation for operation in migration.operations if not is_harmless(operation)] == []


@pytest.mark.parametrize("name", LATER)
def test_an_index_on_a_table_in_use_is_made_concurrently(name: str) -> None:
    migration = import_module(f"predictions.migrations.{name}").Migration
    indexes = [operation for operation in migration.operations if isinstance(operation, migrations.AddIndex)]
    assert all(isinstance(operation, AddIndexConcurrently) for operation in indexes)
    assert not indexes or migration.atomic is False


def test_what_would_break_the_release_before_is_known() -> None:
    text = models.CharField(max_length=5)
    assert not is_harmless(migrations.AddField("task", "new", text))
    assert not is_harmless(migrations.RemoveField("task", "user_id"))
    assert not is_harmless(migrations.RenameField("task", "user_id", "user"))
    assert is_harmless(migrations.AddField("task", "new", models.CharField(max_length=5, db_default="")))


def test_an_older_release_finds_nothing_to_do_on_a_newer_database() -> None:
    """So its pods do not hang after a rollback."""
    MigrationRecorder.Migration.objects.create(app="predictions", name="9999_of_a_later_release")
    try:
        call_command("migrate", check_unapplied=True, verbosity=0)
        call_command("migrate", interactive=False, verbosity=0)
    finally:
        MigrationRecorder.Migration.objects.filter(name="9999_of_a_later_release").delete()


def test_an_index_is_built_concurrently_and_rebuilt_after_an_interruption() -> None:
    operation = AddIndexConcurrently("task", models.Index(fields=["queue_id"], name="task_by_job"))
    state = MigrationLoader(connection).project_state()
    before, after = state.clone(), state.clone()
    operation.state_forwards("predictions", after)
    for _ in range(2 if connection.vendor == "postgresql" else 1):
        with CaptureQueriesContext(connection) as asked, connection.schema_editor(atomic=False) as editor:
            operation.database_forwards("predictions", editor, before, after)
    with connection.schema_editor(atomic=False) as editor:
        operation.database_backwards("predictions", editor, after, before)
    (made,) = [query["sql"] for query in asked if query["sql"].startswith("CREATE")]
    assert ("CONCURRENTLY" in made) == (connection.vendor == "postgresql")
