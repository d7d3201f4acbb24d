"""Workers in this process."""

import threading
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django_rq.queues import get_queues

from predictions.worker.worker import ThreadWorker


def new_worker(**attributes: Any) -> ThreadWorker:
    queues = get_queues(*settings.RQ_QUEUES)
    worker = ThreadWorker(queues, connection=queues[0].connection, serializer="rq.serializers.JSONSerializer")
    for name, value in attributes.items():
        setattr(worker, name, value)
    return worker


class RunningWorker:
    """A worker in a daemon thread, so that a worker which does not end only fails its test."""

    def __init__(self, **attributes: Any) -> None:
        self.worker = new_worker(**attributes)
        self.thread = threading.Thread(target=self.worker.work, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.worker.request_stop(15, None)
        self.thread.join(30)
        assert not self.thread.is_alive()


StartWorker = Callable[..., RunningWorker]
