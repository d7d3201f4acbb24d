"""Fixtures for the core's tests."""

from collections.abc import Iterator

import pytest
from django.db import connection, connections

from tests.platforms.stub import closed_port
from tests.predictions.commands import Shell


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs the agent's commands in this process."""
    return Shell(capsys, monkeypatch)


@pytest.fixture
def no_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The database cannot be reached: its file is nowhere, or nobody listens at its port."""
    _forget_database()
    with monkeypatch.context() as patch:
        if connection.vendor == "sqlite":
            patch.setitem(connection.settings_dict, "NAME", "/nowhere/at/all.sqlite3")
        else:
            patch.setitem(connection.settings_dict, "PORT", closed_port())
            patch.setitem(connection.settings_dict["OPTIONS"], "pool", {"min_size": 0, "max_size": 2, "timeout": 0.2})
        yield
        _forget_database()


def _forget_database() -> None:
    connections.close_all()
    if connection.vendor == "postgresql":
        connection.close_pool()  # type: ignore[attr-defined]
