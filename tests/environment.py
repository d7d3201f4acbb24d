"""A pytest plugin that is loaded before the settings: the tests' own environment and their own real Redis.

Every pytest process has one Redis to itself, so tests may empty it and run side by side.
"""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

from predictions.queue.embedded import EmbeddedRedis

KEPT = ("DATABASE_URL", "PATH", "HOME", "LANG", "TERM", "TMPDIR", "VIRTUAL_ENV", "CI", "NODE_EXTRA_CA_CERTS")
PREFIXES = ("PYTEST", "PYTHON", "PIP_", "COVERAGE", "PLAYWRIGHT", "DJANGO_")

for name in list(os.environ):
    if name not in KEPT and not name.startswith(PREFIXES):
        del os.environ[name]

# A shell starts what runs in the background deaf to SIGINT, and tests send it, to this process and to its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

_directory = Path(tempfile.mkdtemp(prefix="agent-tests-"))
_redis = EmbeddedRedis(_directory)
os.environ.update(
    ENV_FILE=os.devnull,
    REDIS_ADDRESS=_redis.start(),
    ALLOW_ANONYMOUS="true",
    SECRET_KEY="only-for-tests",
    LOCAL_PREDICTOR="tests.predictors:predict",
    OPERATOR_KEYS="operator-key",
    WEBHOOK_APIKEY="record-key",
    MEDIA_ROOT=str(_directory / "media"),
    STATIC_ROOT=str(_directory),
    LOG_LEVEL="ERROR",
    PROMETHEUS_MULTIPROC_DIR=str(_directory / "metrics"),
)


@atexit.register
def _end() -> None:
    _redis.stop()
    shutil.rmtree(_directory, ignore_errors=True)
