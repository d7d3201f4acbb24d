"""Races that the state machine has found, told one by one."""

from functools import partial
from typing import Any

import pytest
from rq.defaults import RQ_KEY_PREFIX

from predictions import lifecycle, submission
from predictions.execution.runner import TaskCanceled
from predictions.lifecycle import InvalidTransition
from predictions.models import Task
from predictions.operations import maintenance
from predictions.queue import queue
from predictions.redis.connections import get_redis
from predictions.redis.errors import QueueUnavailable
from tests.helpers.factories import TaskFactory
from tests.predictions.actors import PLATFORM, Actor, Order, request


def until_at(actor: Actor, at: str) -> None:
    while actor.at != at:
        assert not actor.is_over
        actor.go()


def to_the_end(actor: Actor) -> Any:
    while not actor.is_over:
        actor.go()
    return actor.error


def test_the_task_of_a_submitter_that_died_is_queued_once_its_place_has_lapsed(staged: None) -> None:
    submitter = Actor("submit", partial(submission.submit, request("plain")))
    until_at(submitter, "before INSERT")
    submitter.go()
    submitter.go(Order.DIE)
    assert str(maintenance.init_check()) == "nothing to do"
    get_redis().zadd(f"{RQ_KEY_PREFIX}:reserved:default", {submitter.task_id: 1})
    assert str(maintenance.init_check()) == "1 enqueued again"
    assert queue.waiting_ids() == [submitter.task_id]


def test_a_refusal_that_is_canceled_while_it_is_written_is_still_a_refusal(staged: None) -> None:
    submitter = Actor("submit", partial(submission.submit, request("plain")))
    submitter.go(Order.AWAY)
    until_at(submitter, "before UPDATE")
    lifecycle.cancel(Task.objects.get())
    assert isinstance(to_the_end(submitter), QueueUnavailable)
    assert Task.objects.get().status == "canceled"


def test_an_unexpected_error_is_reported_though_the_task_was_canceled(staged: None) -> None:
    caller = Actor("predict", partial(submission.predict, request("plain")))
    until_at(caller, PLATFORM)
    lifecycle.cancel(Task.objects.get())
    caller.go(Order.DEFECT)
    assert isinstance(to_the_end(caller), ZeroDivisionError | TaskCanceled)


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda task: submission.cancel(task.pk), submission.TaskNotFound),
        (lambda task: lifecycle.apply(task, status="failed"), InvalidTransition),
    ],
    ids=["cancel", "report"],
)
def test_a_task_that_is_purged_before_the_answer_is_not_found(staged: None, act: Any, error: type[Exception]) -> None:
    task = TaskFactory(model_name="iris", status="succeeded")
    actor = Actor("late", partial(act, task))
    until_at(actor, "before UPDATE")
    task.delete()
    assert isinstance(to_the_end(actor), error)
