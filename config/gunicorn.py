"""gunicorn's settings for `web` and `webhook` (`gunicorn -c config/gunicorn.py config.wsgi`).

Measurements chose the worker class and its numbers (two cores, PostgreSQL, medians of three alternating rounds; the
crowd sends a thousand predictions of one second at once; the probe is the slowest answer of /live meanwhile):

    class, processes           requests/s, instant   crowd    probe   memory in the crowd
    gevent, 2                          701           2.6 s   0.11 s        210 MB
    gevent, 1                          598           2.8 s   0.08 s        139 MB
    gevent, 4                          609           2.6 s   0.21 s        351 MB
    gthread, 2 with 64 threads         542          10.6 s   3.8 s         187 MB
    gthread, 2 with 500 threads        618           3.1 s   0.47 s        230 MB

A prediction mostly waits. Threads wait as well as greenlets, but when all threads are busy, the next request waits for
one, and so does a probe. More processes than cores only cost memory.
"""

import errno
import os
import resource
import signal
import socket
import time
from typing import Any

from config import settings

bind = os.environ.get("BIND") or settings.HTTP_SERVER_ADDRESS
workers = settings.WEB_CONCURRENCY
if settings.WRONG_SETTINGS:
    # The application reports the wrong settings and exits. Until then it must not serve anybody.
    bind, workers = "127.0.0.1:0", 1
worker_class = "predictions.server.worker.GracefulWorker"
worker_connections = 2000
# Seconds after SIGTERM until the master kills a process: a request in flight may take TASK_TIMEOUT.
graceful_timeout = int(settings.TASK_TIMEOUT + (settings.SHUTDOWN_DELAY if settings.USE_LOCAL_REDIS else 0)) + 10
timeout = 60
# Longer than a proxy keeps an idle connection (nginx, AWS: 60 s), so that the proxy closes it first.
keepalive = 75
backlog = 2048
# Bytes. MAX_REQUEST_BODY bounds the bodies.
limit_request_line = 4094
accesslog = None
errorlog = "-"
loglevel = "warning"
# Nothing here uses the control socket, and it lies in the home directory, which containers often mount read-only.
control_socket_disable = True

# A waiting prediction holds two or three file descriptors, a batch of uploads one for each file.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(_soft, min(_hard, 65_536)), _hard))


def on_starting(arbiter: Any) -> None:
    """Waits until the port is free. Stopped processes of a killed master may hold it; running ones end by themselves.

    gunicorn itself gives up after five seconds, and then a supervisor with a growing back-off may wait for minutes.
    """
    if "GUNICORN_FD" in os.environ or "LISTEN_FDS" in os.environ:  # the master inherits its sockets
        return
    give_up_at = time.monotonic() + graceful_timeout
    warn_at = 0.0
    for address in arbiter.cfg.address:
        while isinstance(address, tuple) and _is_in_use(address) and time.monotonic() < give_up_at:
            if time.monotonic() >= warn_at:
                arbiter.log.warning(
                    "port %d is in use, waiting for it: if a killed server left processes behind, kill -9 them",
                    address[1],
                )
                warn_at = time.monotonic() + 10
            time.sleep(0.2)


def _is_in_use(address: tuple[Any, ...]) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False


def post_fork(arbiter: Any, worker: Any) -> None:
    """Lets SIGTERM end a process that is still loading; gunicorn's handler would queue the signal for the master."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def on_reload(arbiter: Any) -> None:
    """Tells the running processes that others replace them, before gunicorn sends them SIGTERM."""
    arbiter.kill_workers(signal.SIGHUP)


def post_worker_init(worker: Any) -> None:
    """Prepares the process for serving: time limits for its database, counters at 0, what to do at its end."""
    from predictions.api.requests import known_routes
    from predictions.database.postgresql import bound_waits
    from predictions.server.process import spare_collector
    from predictions.telemetry.counters import begin_at_zero

    bound_waits(cooperative=True)
    if settings.USE_LOCAL_REDIS and settings.ROOT_URLCONF == "config.urls":
        from predictions.operations import shutdown

        worker.delay_seconds = settings.SHUTDOWN_DELAY
        worker.before_ending = shutdown.close_for_good

    begin_at_zero(platform=settings.ML_PLATFORM, routes=known_routes(), models=filter(None, [settings.MODEL_NAME]))
    spare_collector(collect_after=10_000)
