"""Rows as tests need them."""

import factory

from predictions.models import Task


class TaskFactory(factory.django.DjangoModelFactory[Task]):
    """A task of this agent, written to the database past every rule of its life."""

    class Meta:
        model = Task

    agent = "default"
    model_name = "iris"
