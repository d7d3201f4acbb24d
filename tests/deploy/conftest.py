"""The image as it is built, and containers that are gone when the test is over."""

from collections.abc import Callable, Iterator

import pytest

from tests.deploy import podman
from tests.deploy.podman import Container


@pytest.fixture(scope="session")
def image() -> str:
    return podman.build()


@pytest.fixture
def run(image: str) -> Iterator[Callable[..., Container]]:
    """Starts containers of the agent's image, or of another."""
    started: list[Container] = []

    def start(*arguments: str, **options: object) -> Container:
        started.append(Container(*arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for container in reversed(started):  # one may share another's network
        container.remove()
