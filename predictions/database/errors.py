"""How a database that does not answer looks to the rest of the agent, and how its connection is given back."""

from django.db import DEFAULT_DB_ALIAS, InterfaceError, InternalError, OperationalError, connections

from predictions.recorder import RecordUnavailable


class _DatabaseErrors:
    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OperationalError | InterfaceError | InternalError):  # the last is PostgreSQL's "read-only"
            raise RecordUnavailable("the database did not answer") from error


_database_errors = _DatabaseErrors()


def database_errors() -> _DatabaseErrors:
    """Returns a context that turns an unreachable, locked or read-only database into RecordUnavailable."""
    return _database_errors


def release_connection() -> None:
    """Returns this thread's connection to the pool before a wait; does nothing inside a transaction."""
    database = connections[DEFAULT_DB_ALIAS]
    if database.connection is None or database.in_atomic_block:
        return
    if getattr(database, "lends", "pool" in database.settings_dict["OPTIONS"]):
        database.close()
