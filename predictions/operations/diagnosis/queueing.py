"""Redis, the queue in it, and the processes that work on it."""

from collections.abc import Iterator

from django.conf import settings
from django.db import DatabaseError

from platforms import Health
from platforms.health import ok, problem, warning
from predictions.operations import statistics
from predictions.operations.diagnosis.formatting import because, span
from predictions.queue import scheduler
from predictions.queue.overview import Overview, overview
from predictions.queue.queue import failed_maintenance
from predictions.recorder import RecordUnavailable
from predictions.redis.errors import QueueUnavailable
from predictions.redis.server import Server, server

NEEDED_VERSION = (6, 2)
SKEW_SECONDS = 5.0
SLOW_SECONDS = 0.1
FULL_SHARE = 0.9
_AWAY = "Is REDIS_ADDRESS right (and REDIS_PASSWORD, REDIS_TLS), and the server running?"


def check_redis() -> Iterator[Health]:
    try:
        redis = server()
    except QueueUnavailable as error:
        yield problem(because(error), _AWAY)
        return
    yield from judged(redis)


def judged(redis: Server) -> Iterator[Health]:
    """Judges whether a queue can rely on this server."""
    yield ok(f"Redis {redis.version}, {redis.mode}, at {redis.address}; {redis.replicas} replicas")
    if tuple(int(part) for part in redis.version.split(".")[:2]) < NEEDED_VERSION:
        yield problem(f"Redis {redis.version} is too old", "Use Redis 6.2 or later, or Valkey.")
    if redis.role != "master":
        yield problem("it is a replica, which takes no writes", "Point REDIS_ADDRESS to the master, or use Sentinel.")
    if redis.mode == "sentinel":
        yield problem("REDIS_ADDRESS is that of a sentinel", "Put it into REDIS_SENTINELS, with REDIS_SENTINEL_MASTER.")
    if (redis.mode == "cluster") != settings.REDIS_CLUSTER_MODE:
        yield problem(
            f"it runs in {redis.mode} mode, and REDIS_CLUSTER_MODE says otherwise",
            f"Set REDIS_CLUSTER_MODE={str(redis.mode == 'cluster').lower()}.",
        )
    if (settings.REDIS_SENTINELS or settings.REDIS_CLUSTER_MODE) and not redis.replicas:
        yield warning(
            "it has no replica, so no server takes over when it is lost", "Start a replica, or find out why it is gone."
        )
    if not redis.cluster_is_well:
        yield problem("the cluster is down: some slots have no master", "Look at `redis-cli CLUSTER NODES`.")
    if redis.eviction != "noeviction":
        yield problem(
            f"it throws keys away when memory is short (maxmemory-policy {redis.eviction}): tasks would be lost",
            "Set maxmemory-policy noeviction.",
        )
    if redis.memory_limit and redis.memory > FULL_SHARE * redis.memory_limit:
        share = 100 * redis.memory / redis.memory_limit
        yield warning(f"{share:.0f} % of its memory is used", "Raise maxmemory, or find out what else is kept in it.")
    if not redis.is_saved:
        yield problem("its last write to disk failed", "Look at its log: is its disk full?")
    if not redis.appends and not settings.USE_LOCAL_REDIS:
        yield warning(
            "it does not write each change to disk: after a restart only the init check queues the waiting tasks again",
            "Set appendonly yes.",
        )
    if abs(redis.seconds_ahead) > SKEW_SECONDS:
        side = "ahead of" if redis.seconds_ahead > 0 else "behind"
        yield warning(
            f"its clock is {span(abs(redis.seconds_ahead))} {side} this host's", "Let both follow the same NTP."
        )
    if redis.answers_in > SLOW_SECONDS:
        yield warning(f"it took {redis.answers_in:.2f} s to answer", "Put it nearer, or give it a core of its own.")


def check_queue() -> Iterator[Health]:
    try:
        queue = overview()
        failed_jobs = failed_maintenance()
    except QueueUnavailable:
        yield problem("unknown: Redis does not answer", "See redis.")
        return
    yield ok(f"{queue.waiting} of {settings.MAX_QUEUE_SIZE} wait, {queue.running} run in workers")
    if queue.paused_by:
        yield warning(f"paused by {queue.paused_by}", "`manage.py queue resume` goes on.")
    if queue.waiting >= settings.MAX_QUEUE_SIZE:
        yield warning("full: submissions are answered 429", "Start more workers, or raise MAX_QUEUE_SIZE.")
    if queue.archived:
        yield warning(
            f"RQ gave up {queue.archived} jobs",
            "Look at the workers' logs; `manage.py sweep_archive` settles their tasks.",
        )
    if failed_jobs:
        yield warning(
            f"{failed_jobs} maintenance jobs failed in the last 12 hours",
            "Look at the workers' logs for their tracebacks. The scheduler queues the next ones as ever.",
        )
    yield from _of_the_oldest(queue)


def _of_the_oldest(queue: Overview) -> Iterator[Health]:
    """The row that has waited longest; the queue may know nothing of it."""
    try:
        waited = statistics.unfinished().oldest_waiting_seconds
    except (RecordUnavailable, DatabaseError):  # the database's own check says so
        return
    if waited > settings.TASK_TIMEOUT and not queue.waiting:
        yield warning(
            f"a task has been pending for {span(waited)}, and the queue is empty",
            "Run `manage.py init_check` to settle lost tasks.",
        )
    elif waited > settings.TASK_TIMEOUT:
        yield warning(f"the oldest waiting task has waited {span(waited)}", "Start more workers.")


def check_workers() -> Iterator[Health]:
    try:
        queue = overview()
        is_scheduled = scheduler.is_alive()
    except QueueUnavailable:
        yield problem("unknown: Redis does not answer", "See redis.")
        return
    if queue.workers_alive:
        yield ok(f"{queue.workers_alive} alive, {queue.running} of {queue.slots} slots busy")
    else:
        waits = f", and {queue.waiting} tasks wait" if queue.waiting else ""
        found = problem if queue.waiting else warning
        yield found(f"none is alive{waits}: async predictions do not run", "Start `manage.py rqworker`.")
    for worker in queue.workers:
        if not worker.is_alive:
            yield warning(
                f"{worker.name} on {worker.host} has been silent for {span(worker.silent_seconds)}",
                "It was killed or lost Redis; its tasks are run again. Nothing to do if another runs.",
            )
    if not is_scheduled:
        yield warning(
            "no scheduler runs: lost tasks are not settled, old ones not deleted", "Start `manage.py scheduler`."
        )
