"""The statements that are composed here say what Django's own would."""

from typing import Any

import pytest
from django.utils.timezone import now

from predictions import statements
from predictions.models import Task
from tests.helpers.factories import TaskFactory

pytestmark = pytest.mark.django_db

ODD = {"text": "\\u0000 ä \ud83d\ude00 \x00", "large": 10**30, "deep": [[[{}]]], "none": None}


@pytest.mark.parametrize("inputs", [ODD, {}, None])
@pytest.mark.parametrize("unreported", [True, False])
def test_a_task_that_begins_is_read_as_django_reads_it(inputs: Any, unreported: bool) -> None:
    made = TaskFactory(status="pending", inputs=inputs, outputs=[1.5, "two"], running_time=0.25, unreported=unreported)
    begun = statements.start(made.pk, run_id="run", moment=now(), lost=(), handed_back=(), attempts=2)
    read = Task.objects.get(pk=made.pk)
    assert begun is not None
    assert begun.status == "running"
    assert {name: value for name, value in vars(begun).items() if name != "_state"} == {
        name: value for name, value in vars(read).items() if name != "_state"
    }
    assert vars(begun._state) == vars(read._state)
    begun.refresh_from_db()
    assert begun == read


def test_a_task_that_is_not_to_be_had_is_not_begun() -> None:
    ended = TaskFactory(status="succeeded")
    for task_id in (ended.pk, "nobody's"):
        assert statements.start(task_id, run_id="r", moment=now(), lost=(), handed_back=(), attempts=2) is None
