"""Fixtures: an empty database and Redis for each test, a client, a worker, and real servers as processes."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections
from django.test.utils import setup_databases, teardown_databases
from rest_framework.test import APIClient
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from platforms import forget_platforms
from predictions.models import EndedCount, Task, Upload
from predictions.operations import maintenance
from predictions.redis.connections import forget_connections, get_redis
from predictions.worker.worker import ThreadWorker
from tests.helpers import environment, predictors
from tests.helpers.proxy import Proxy
from tests.helpers.redis_servers import one_redis
from tests.helpers.redis_topologies import Cluster
from tests.helpers.servers import Server
from tests.helpers.workers import RunningWorker, new_worker

LONGEST = (
    "tests/deploy/",
    "tests/e2e/test_redis_faults.py",
    "tests/peers/test_uploads_real.py",
    "tests/test_bench.py",
    "tests/e2e/test_clock.py",
    "tests/e2e/test_worker_faults.py",
    "tests/peers/test_kserve.py",
    "tests/scripts/test_run.py",
    "tests/e2e/test_record_service_faults.py",
    "tests/e2e/test_database_faults.py",
    "tests/peers/test_runpod.py",
    "tests/peers/test_replicate.py",
    "tests/peers/test_ingress.py",
    "tests/e2e/test_scale.py",
    "tests/e2e/test_secrets.py",
    "tests/peers/test_storage.py",
    "tests/scripts/",
)
"""Slow tests that begin first, so that no worker is left with a long file at the end."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((rank for rank, path in enumerate(LONGEST) if item.nodeid.startswith(path)), len(LONGEST))

    items.sort(key=rank)


class FileScheduling(LoadFileScheduling):  # type: ignore[misc]
    """One worker runs a whole file and shares its fixtures; the files of tests/deploy share one image."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "deploy" if "/deploy/" in file else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling | None:
    return FileScheduling(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def django_db_setup(
    django_test_environment: None, django_db_blocker: Any, django_db_modify_db_settings: None
) -> Iterator[None]:
    """All tests use one test database, with or without the `django_db` marker."""
    if connection.vendor == "sqlite":
        for suffix in ("-wal", "-shm"):  # a killed run leaves them beside the file, which Django then deletes alone
            Path(f"{connection.settings_dict['TEST']['NAME']}{suffix}").unlink(missing_ok=True)
    with django_db_blocker.unblock():
        databases = setup_databases(verbosity=0, interactive=False)
        yield
        _leave_database_alone()
        teardown_databases(databases, verbosity=0)


@pytest.fixture(scope="session", autouse=True)
def _one_slot() -> Iterator[None]:
    """On a cluster every key that any test made lies on one master."""
    yield
    if isinstance(environment.servers, Cluster):
        assert environment.servers.stray_keys() == {}


@pytest.fixture(scope="session", autouse=True)
def _no_wait_in_the_init_check() -> Iterator[None]:
    """In this process; the agent's own processes wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(maintenance, "LOOK_AGAIN_SECONDS", 0)
        yield


def _leave_database_alone() -> None:
    """Ends every session of the test database, ours and those of processes that were killed."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        connection.close()
        connection.close_pool()  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def _clean(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Real commits, seen by every thread and process; each test begins with nothing."""
    with django_db_blocker.unblock():
        get_redis().flushall()
        predictors.calls.clear()
        predictors.gate.clear()
        yield
        predictors.gate.set()
        Upload.objects.all().delete()
        Task.objects.all().delete()
        EndedCount.objects.all().delete()
        User.objects.all().delete()
        connections.close_all()


@pytest.fixture
def client() -> APIClient:
    return APIClient()


@pytest.fixture
def operator() -> APIClient:
    return APIClient(headers={"Authorization": "Bearer operator-key"})


@pytest.fixture
def record_client() -> APIClient:
    return APIClient(headers={"apikey": "record-key"})


@pytest.fixture
def work() -> Iterator[Callable[..., ThreadWorker]]:
    """Runs a worker in this process until the queue is empty."""
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGCONT)
    }

    def run(**attributes: Any) -> ThreadWorker:
        worker = new_worker(**attributes)
        worker.work(burst=True)
        return worker

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def start_worker() -> Iterator[Callable[..., RunningWorker]]:
    """Starts workers in threads of this process, and stops them after the test."""
    started: list[RunningWorker] = []

    def start(**attributes: Any) -> RunningWorker:
        started.append(RunningWorker(**attributes))
        return started[-1]

    yield start
    predictors.gate.set()
    for running in started:
        running.stop()


@pytest.fixture
def configured(settings: Any) -> Iterator[Callable[..., None]]:
    """Changes settings, and drops the platforms built from the old ones."""

    def configure(**changes: Any) -> None:
        for name, value in changes.items():
            setattr(settings, name, value)
        forget_platforms()

    forget_platforms()
    yield configure
    forget_platforms()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Starts processes of the agent (`web`, `worker`, …) on this test's database and Redis, and ends them."""
    started: list[Server] = []

    def start(process: str, **environment: str) -> Server:
        server = Server(process, environment)
        started.append(server)
        return server

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def redis_proxy(configured: Callable[..., None]) -> Iterator[Proxy]:
    """This process reaches its real Redis, of several the master, through a proxy that can be cut."""
    proxy = Proxy(environment.servers.master().address)
    configured(**one_redis(proxy.address))
    forget_connections()
    yield proxy
    proxy.close()
    forget_connections()
