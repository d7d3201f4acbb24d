"""gunicorn's settings for `web` and `webhook` (`gunicorn -c config/gunicorn.py config.wsgi`).

The worker class and its numbers were chosen by measurement (two cores, medians of three rounds in turn, PostgreSQL; a
crowd is a thousand predictions of one second at once, and the probe is the worst answer of /live meanwhile):

    class, processes           requests/s, instant   crowd    probe   memory in the crowd
    gevent, 2                          701           2.6 s   0.11 s        210 MB
    gevent, 1                          598           2.8 s   0.08 s        139 MB
    gevent, 4                          609           2.6 s   0.21 s        351 MB
    gthread, 2 with 64 threads         542          10.6 s   3.8 s         187 MB
    gthread, 2 with 500 threads        618           3.1 s   0.47 s        230 MB

A prediction is mostly waiting. Threads wait as well as greenlets do, but only as many as there are: the next caller, a
probe among them, waits for one. More processes than cores only cost memory.
"""

import errno
import os
import resource
import socket
import time
from typing import Any

from config import settings

bind = os.environ.get("BIND") or settings.HTTP_SERVER_ADDRESS
workers = settings.WEB_CONCURRENCY
if settings.WRONG_SETTINGS:
    # The application tells what is wrong and ends, once; nobody is to be let in for that moment.
    bind, workers = "127.0.0.1:0", 1
worker_class = "predictions.server.worker.PatientWorker"
worker_connections = 2000
# SIGTERM: stop accepting, then let what is in flight end. No prediction takes longer than its task may.
graceful_timeout = int(settings.TASK_TIMEOUT + (settings.SHUTDOWN_DELAY if settings.USE_LOCAL_REDIS else 0)) + 10
timeout = 60
# Longer than proxies keep an idle connection (nginx, AWS: 60 s): the side that sends requests must be first to close.
keepalive = 75
backlog = 2048
# A request line may name a task, not more; bodies are bounded by MAX_REQUEST_BODY.
limit_request_line = 4094
accesslog = None
errorlog = "-"
loglevel = "warning"
# Its default place is the home directory, which containers often mount read-only; nothing here uses it.
control_socket_disable = True

# A prediction that waits takes two or three descriptors, a batch of uploads one for each file.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(_soft, min(_hard, 65_536)), _hard))


def on_starting(arbiter: Any) -> None:
    """Waits until the port is free: processes of a master that was killed may still hold it.

    They end by themselves at once, unless they are stopped (SIGSTOP, a frozen cgroup). gunicorn's own five tries are
    over after five seconds, and a supervisor that backs off then leaves the port alone for minutes.
    """
    if "GUNICORN_FD" in os.environ or "LISTEN_FDS" in os.environ:  # the sockets are handed over, and are in use
        return
    give_up_at = time.monotonic() + graceful_timeout
    tell_at = 0.0
    for address in arbiter.cfg.address:
        while isinstance(address, tuple) and _is_in_use(address) and time.monotonic() < give_up_at:
            if time.monotonic() >= tell_at:
                arbiter.log.warning(
                    "port %d is in use, waiting for it: if a killed server left processes behind, kill -9 them",
                    address[1],
                )
                tell_at = time.monotonic() + 10
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
    worker.signals_of_the_master = arbiter.SIG_QUEUE


def post_worker_init(worker: Any) -> None:
    """Lets the application know when SIGTERM has come, and wait for its database no longer than a caller would."""
    from predictions.api.requests import known_routes
    from predictions.database import bound_answers
    from predictions.server import draining
    from predictions.server.process import leave_what_is_loaded
    from predictions.telemetry.counters import begin_at_zero

    bound_answers(cooperative=True)
    if settings.USE_LOCAL_REDIS and settings.ROOT_URLCONF == "config.urls":
        from predictions.operations import shutdown

        worker.delay_seconds = settings.SHUTDOWN_DELAY
        worker.before_ending = shutdown.close_for_good

    begin_at_zero(platform=settings.ML_PLATFORM, routes=known_routes(), models=filter(None, [settings.MODEL_NAME]))
    leave_what_is_loaded(collect_after=10_000)
    draining.watch(is_leaving=lambda: worker.told_to_end, is_refusing=lambda: worker.refusing)
