"""The steps before the processes start: Redis, the release commands, and the admin's account."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from scripts.starting.embedded_redis import EmbeddedRedis
from scripts.starting.terminal import VAR, Refused, say

CREATE_OPERATOR = """
import os
from django.contrib.auth import get_user_model
users = get_user_model().objects
superusers = users.filter(is_superuser=True, is_active=True).order_by("pk")
known = superusers.first() or users.filter(username="operator").first()
if known is None:
    users.create_superuser("operator", password=os.environ["OPERATOR_PASSWORD"])
print("known:", known.get_username() if known else "")
"""


@contextmanager
def redis_if_needed() -> Iterator[EmbeddedRedis | None]:
    """Runs the embedded server during the block, or yields None if the settings name a server."""
    if os.environ.get("REDIS_ADDRESS") or os.environ.get("REDIS_SENTINELS"):
        yield None
        return
    redis = EmbeddedRedis(VAR / "redis")
    try:
        say(f"Started a Redis for this checkout on {redis.start()} (data in var/redis).")
        yield redis
    finally:
        redis.stop()


def run_to_end(command: list[str], **more: str) -> str:
    """Runs a command and returns its output. Raises Refused with the output if it fails. Ends it on an interrupt."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **more},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
        raise
    if process.returncode:
        raise Refused(f"{output.rstrip()}\n\nCould not start the agent: {_first_words(command)} failed, see above.")
    return output


def _first_words(command: list[str]) -> str:
    return " ".join(command[-1].split()[:3]) if command[0] == "sh" else " ".join(command[1:3])


def forget_counters() -> None:
    """Removes the counters of an earlier run, which /metrics would add to this one's."""
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        shutil.rmtree(VAR / "metrics", ignore_errors=True)


def prepare_release(commands: str) -> None:
    for command in commands.split("&&"):
        say(f"Running {command.strip()} ...")
        run_to_end(["sh", "-c", command.strip()])


def create_operator() -> tuple[str, str]:
    """Returns the operator's name, and the password if the account is new."""
    password = secrets.token_urlsafe(12)
    shell = [sys.executable, "manage.py", "shell", "--verbosity", "0", "--command", CREATE_OPERATOR]
    known = run_to_end(shell, OPERATOR_PASSWORD=password).rpartition("known:")[2].strip()
    return (known, "") if known else ("operator", password)
