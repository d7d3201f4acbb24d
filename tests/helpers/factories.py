"""Rows as tests need them."""

from datetime import timedelta
from typing import Any

import factory
from django.utils.timezone import now

from predictions.models import Task


class TaskFactory(factory.django.DjangoModelFactory[Task]):
    """A task of this agent, written to the database past every rule of its life."""

    class Meta:
        model = Task

    agent = "default"
    model_name = "iris"


def status_of(task_id: str) -> str:
    return Task.objects.get(pk=task_id).status


def task(status: str, age: float, **fields: Any) -> Task:
    """A task of this agent that nothing works on, submitted `age` seconds ago."""
    moment = now() - timedelta(seconds=age)
    started = None if status == "pending" else moment
    fields = {"agent": "default", "model_name": "iris", "platform": "local", "inputs": {}, **fields}
    return Task.objects.create(status=status, created_at=moment, started_at=started, **fields)
