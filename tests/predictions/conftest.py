"""Fixtures for the core's tests."""

import logging
from collections.abc import Callable, Iterator

import pytest
from django.db import connection, connections

from predictions.execution import calls, inflight
from predictions.queue import scripts, worker_scripts
from predictions.redis.connections import get_redis
from tests.helpers.stub import closed_port
from tests.predictions.actors import halting
from tests.predictions.commands import Shell
from tests.predictions.referee import PLACES


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Runs the agent's commands in this process."""
    return Shell(capsys, monkeypatch)


@pytest.fixture
def no_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the database unreachable: its file does not exist, or its port refuses connections."""
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


@pytest.fixture
def no_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops the watches over predictions in flight, those of earlier tests too."""
    for watch in inflight.watches:
        watch.end()
    monkeypatch.setattr(inflight, "watches", [])


@pytest.fixture
def no_logs() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)  # this also clears the loggers' caches


@pytest.fixture
def staged(configured: Callable[..., None], monkeypatch: pytest.MonkeyPatch, no_watches: None, no_logs: None) -> None:
    """Actors halt at every step, the test orders their platform's answers, and no background thread acts.

    Without logs: there are thousands of faults, each with a traceback.
    """
    monkeypatch.setattr(inflight, "SAY_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(calls, "NOTE_PAUSES_SECONDS", (0.0,) * len(calls.NOTE_PAUSES_SECONDS))
    for source in (*vars(scripts).values(), *vars(worker_scripts).values()):
        if isinstance(source, str) and "redis.call" in source:
            get_redis().script_load(source)  # so that no first call of one takes more steps than the next
    monkeypatch.setattr(get_redis(), "execute_command", halting(get_redis().execute_command))
    configured(
        ML_PLATFORM="staged",
        PLATFORMS={"staged": ("tests.predictions.actors.Staged", {})},
        MAX_QUEUE_SIZE=PLACES,
    )
