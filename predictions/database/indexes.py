"""Migrations of a table that others go on writing to."""

from typing import Any

from django.db import migrations


class AddIndexConcurrently(migrations.AddIndex):
    """On PostgreSQL the index is made while others write; what an interrupted try left is dropped first.

    The migration says `atomic = False`. Django's own is in django.contrib.postgres, which SQLite does without.
    """

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        if schema_editor.connection.vendor != "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)
            return
        model = to_state.apps.get_model(app_label, self.model_name)
        if self.allow_migrate_model(schema_editor.connection.alias, model):
            schema_editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {schema_editor.quote_name(self.index.name)}")
            schema_editor.add_index(model, self.index, concurrently=True)
