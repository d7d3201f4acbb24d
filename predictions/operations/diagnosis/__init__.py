"""Checks this deployment and says how to fix it, for `manage.py doctor` and for pages.

Nothing is kept from one look to the next. Each part is looked at in a thread of its own, so that one that hangs holds
up no other.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue

from platforms import Health, Level
from platforms.health import problem
from predictions.operations.diagnosis.database import check_database, unpooled_database
from predictions.operations.diagnosis.formatting import first_line
from predictions.operations.diagnosis.queueing import check_queue, check_redis, check_workers
from predictions.operations.diagnosis.services import (
    check_platform,
    check_record_service,
    check_settings,
    check_storage,
    check_upload_address,
)

__all__ = ["DEADLINE_SECONDS", "Finding", "checks", "diagnose", "worst"]

logger = logging.getLogger(__name__)

DEADLINE_SECONDS = 8.0

Check = Callable[[], Iterable[Health]]
Answer = SimpleQueue[Health | None]
"""The findings of a check; None marks their end."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding about one part of the deployment."""

    part: str
    level: Level
    message: str
    hint: str = ""


def checks(model_name: str = "") -> dict[str, Check]:
    """Part → its check. `model_name` is the model to look for on the platform, empty for none."""
    return {
        "settings": check_settings,
        "database": check_database,
        "redis": check_redis,
        "queue": check_queue,
        "workers": check_workers,
        "record service": check_record_service,
        "storage": check_storage,
        "upload address": check_upload_address,
        "platform": partial(check_platform, model_name),
    }


def diagnose(parts: dict[str, Check], *, deadline_seconds: float = DEADLINE_SECONDS) -> Iterator[Finding]:
    """The findings of each part, in the order of `parts`, as they come; one that takes too long is a problem."""
    answers: dict[str, Answer] = {part: SimpleQueue() for part in parts}
    for part, check in parts.items():
        arguments = (part, check, answers[part])
        threading.Thread(target=_look, args=arguments, name=f"check {part}", daemon=True).start()
    deadline = time.monotonic() + deadline_seconds
    for part, answer in answers.items():
        try:
            while (health := answer.get(timeout=max(0.0, deadline - time.monotonic()))) is not None:
                yield Finding(part, health.level, health.message, health.hint)
        except Empty:
            hint = "It hangs: look at it, and at the network."
            yield Finding(part, Level.PROBLEM, "it did not answer in time", hint)


def worst(findings: Iterable[Finding]) -> Level:
    """The level of the whole."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)


def _look(part: str, check: Check, answer: Answer) -> None:
    try:
        with unpooled_database():
            for health in check():
                answer.put(health)
    except Exception as error:  # a diagnosis that ends at the first strange thing it meets would be of no use
        logger.warning("the check of the %s failed", part, exc_info=True)
        answer.put(problem(f"it could not be looked at: {type(error).__name__}: {first_line(error)}", "See the log."))
    answer.put(None)
