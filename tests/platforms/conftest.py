"""Nothing here needs Django, a database or Redis: a stub server stands at the other end of the wire."""

from collections.abc import Iterator

import pytest

from tests.helpers.stub import Stub


@pytest.fixture(autouse=True)
def _clean() -> None:
    """In the place of the suite's own, which empties the database and Redis."""


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    yield server
    server.close()
