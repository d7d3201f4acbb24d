"""How the agent's processes wait for their database: sqlite3/ for other writers, postgresql.py for the server."""

from django.db import connection


def bound_answers() -> None:
    """From now on this process waits DATABASE_TIMEOUT seconds for an answer of PostgreSQL; until then for ever."""
    pool = connection.settings_dict["OPTIONS"].get("pool")
    if pool:
        from predictions.database.postgresql import BoundedConnection  # psycopg, which SQLite does without

        pool["connection_class"] = BoundedConnection
