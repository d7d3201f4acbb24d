"""What every fault test asks: nothing is lost, the platform saw each task once, and each output is of its own input."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress
from types import TracebackType
from typing import Any

import requests

from predictions.models import ENDED, Task
from predictions.queue import queue
from predictions.redis.errors import QueueUnavailable
from tests.helpers.answers import answer_to, outputs_of
from tests.helpers.slow_platform import SlowPlatform
from tests.helpers.waiting import until


class Crowd:
    """Callers that ask `url` for predictions, one after another, until the block ends.

    `first` is the number of the first one; two crowds at once need different ones. `answer` gives the outputs that are
    expected of inputs.
    """

    def __init__(
        self,
        url: str,
        *,
        route: str = "/async/v1/predict",
        callers: int = 4,
        pause_seconds: float = 0.02,
        first: int = 0,
        answer: Callable[[dict[str, Any]], Any] = answer_to,
        **inputs: object,
    ) -> None:
        self.accepted: dict[int, str] = {}
        """`inputs.n` of every submission that was acknowledged, and its task's id."""
        self.refused: Counter[str] = Counter()
        """How often each other answer came; `no answer` for a connection that broke."""
        self.wrong: list[str] = []
        """Answers of sync predictions with outputs that are not of their inputs."""
        self._url = f"{url}{route}"
        self._pause_seconds = pause_seconds
        self._answer = answer
        self.inputs = inputs
        """More inputs for the next submissions, besides their number."""
        self._lock = threading.Lock()
        self._next = first
        self._over = threading.Event()
        self._callers = [threading.Thread(target=self._submit, daemon=True) for _ in range(callers)]

    def __enter__(self) -> "Crowd":
        for caller in self._callers:
            caller.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        if kind is None:
            assert not self.wrong, self.wrong[:3]

    def stop(self) -> None:
        """Lets every caller have its last answer."""
        self._over.set()
        for caller in self._callers:
            caller.join(120)

    def wait_for(self, accepted: int, *, seconds: float = 120) -> None:
        """Until so many submissions were acknowledged."""
        until(lambda: len(self.accepted) >= accepted, seconds=seconds)

    def _submit(self) -> None:
        session = requests.Session()
        while not self._over.is_set():
            with self._lock:
                number = self._next
                self._next += 1
            body: dict[str, Any] = {"model_name": "m", "inputs": {"n": number, **self.inputs}}
            try:
                answer = session.post(self._url, json=body, timeout=60)
            except requests.RequestException:
                self.refused["no answer"] += 1
            else:
                if answer.status_code == 200:
                    task = answer.json()
                    self.accepted[number] = task["id"]
                    if "outputs" in task and task["outputs"] != self._answer(body["inputs"]):
                        self.wrong.append(f"{body['inputs']} gave {task['outputs']}")
                else:
                    self.refused[f"{answer.status_code} {answer.json()['code']}"] += 1
            time.sleep(self._pause_seconds)


def settles(
    crowd: Crowd,
    platform: SlowPlatform,
    *,
    seconds: float = 180,
    begun_again: Collection[str] = (),
    using: str = "default",
) -> Counter[str]:
    """Waits until nothing is unfinished, then holds the record to the promise; how many tasks ended in which status.

    Every acknowledged task is there with the inputs it was sent with, and has ended: a failed one with a reason, one
    that succeeded with the outputs of its own inputs. The platform saw no task twice but one whose worker was lost, as
    its second attempt, and those `begun_again` because their worker handed them back. No job is left in the queue.
    `using` names the database.
    """
    rows = Task.objects.using(using)
    until(lambda: not rows.unfinished().exists(), seconds=seconds)
    tasks = {task.pk: task for task in rows.all()}
    missing = set(crowd.accepted.values()) - tasks.keys()
    assert not missing, f"{len(missing)} acknowledged tasks are gone"
    for number, task_id in crowd.accepted.items():
        assert (tasks[task_id].inputs or {}).get("n") == number, f"task {task_id} has the inputs of another"
    assert_outputs_belong_to_inputs(using=using)
    assert all(task.status in ENDED for task in tasks.values())
    assert all(task.error_info for task in tasks.values() if task.status == Task.Status.FAILED)
    calls = Counter(call["n"] for call in platform.calls())
    for task in tasks.values():
        assert task.inputs is not None
        seen = calls[task.inputs["n"]]
        may_be_seen = max(task.attempt, 1) + (task.pk in begun_again)
        assert seen <= may_be_seen, f"task {task.pk}: attempt {task.attempt}, but {seen} predictions"
        if task.status == Task.Status.SUCCEEDED:
            assert seen, f"task {task.pk} succeeded without a prediction"
    until(lambda: queue.sizes() == queue.Sizes(0, 0), seconds=60)
    return Counter(task.status for task in tasks.values())


def assert_outputs_belong_to_inputs(*, using: str = "default") -> None:
    """Every succeeded task has the platform's answer to its own inputs. `using` names the database."""
    wrong = [
        f"{task.pk}: {task.inputs} gave {task.outputs}"
        for task in Task.objects.using(using).filter(status=Task.Status.SUCCEEDED)
        if task.outputs != outputs_of(task.inputs or {})
    ]
    assert not wrong, f"{len(wrong)} tasks have wrong outputs: {wrong[:3]}"


def is_drained() -> bool:
    with suppress(QueueUnavailable):  # the first command on a connection to the frozen server
        return queue.sizes() == queue.Sizes(0, 0)
    return False
