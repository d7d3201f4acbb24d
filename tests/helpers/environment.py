"""A pytest plugin that is loaded before the settings: the tests' own environment and their own real Redis.

Every pytest process has a Redis to itself, so tests may empty it and run side by side: one server, or with
`TEST_REDIS=cluster` a Redis Cluster, with `TEST_REDIS=sentinel` replicas and sentinels (redis_topologies.py).
"""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

from tests.helpers import redis_topologies

KEPT = (
    "TEST_REDIS",
    "SEARCH_EXAMPLES",
    "DATABASE_URL",
    "PATH",
    "HOME",
    "LANG",
    "TERM",
    "TMPDIR",
    "VIRTUAL_ENV",
    "CI",
    "NODE_EXTRA_CA_CERTS",
)
PREFIXES = ("PYTEST", "PYTHON", "PIP_", "COVERAGE", "PLAYWRIGHT", "DJANGO_")

for name in list(os.environ):
    if name not in KEPT and not name.startswith(PREFIXES):
        del os.environ[name]

# Shells start background processes with SIGINT ignored; tests send it to this process and to its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

_directory = Path(tempfile.mkdtemp(prefix="agent-tests-"))
servers = redis_topologies.start(os.environ.get("TEST_REDIS", "single"), _directory / "redis")
os.environ.update(
    servers.environment(),
    ENV_FILE=os.devnull,
    ALLOW_ANONYMOUS="true",
    SECRET_KEY="only-for-tests",
    LOCAL_PREDICTOR="tests.helpers.predictors:predict",
    OPERATOR_KEYS="operator-key",
    WEBHOOK_APIKEY="record-key",
    MEDIA_ROOT=str(_directory / "media"),
    STATIC_ROOT=str(_directory),
    LOG_LEVEL="ERROR",
    PROMETHEUS_MULTIPROC_DIR=str(_directory / "metrics"),
)


@atexit.register
def _end() -> None:
    servers.stop()
    shutil.rmtree(_directory, ignore_errors=True)
