"""The questions of the fault tests themselves: an output of other inputs is noticed, on a record and in an answer."""

import json
from typing import Any

import pytest

from predictions.models import Task
from tests.e2e.callers import Callers
from tests.e2e.faults import Crowd, assert_outputs_belong_to_inputs
from tests.helpers.factories import TaskFactory
from tests.helpers.stub import Stub, answers, says
from tests.helpers.waiting import until

STREAM = {"n": 3, "pieces": 2}


@pytest.mark.django_db
@pytest.mark.parametrize(("inputs", "outputs"), [({"n": 3}, {"n": 3}), (STREAM, "piece 0 of 3 piece 1 of 3 ")])
def test_outputs_of_other_inputs_are_noticed_on_a_record(inputs: dict[str, Any], outputs: Any) -> None:
    task = TaskFactory(status="succeeded", inputs=inputs, outputs=outputs)
    assert_outputs_belong_to_inputs()
    Task.objects.filter(pk=task.pk).update(inputs={**inputs, "n": 4})
    with pytest.raises(AssertionError, match="wrong outputs"):
        assert_outputs_belong_to_inputs()


def test_outputs_of_other_inputs_are_noticed_in_an_answer() -> None:
    stub = Stub()
    stub.script("POST /v1/predict", answers({"id": "t", "outputs": {"n": -1}}))
    with pytest.raises(AssertionError, match="gave"), Crowd(stub.url, route="/v1/predict", callers=1) as crowd:
        crowd.wait_for(1)
    stub.close()


@pytest.mark.parametrize("pieces", [["piece 0 of 0 "], ["piece 0 of 0 ", "piece 1 of 7 "]])
def test_a_stream_that_is_not_whole_or_of_other_inputs_is_noticed(pieces: list[str]) -> None:
    stub = Stub()
    text = "".join(json.dumps({"data": piece}) + "\n" for piece in pieces)
    stub.script("POST /v1/generate", says(text.encode()))
    port = int(stub.address.rpartition(":")[2])
    body = {"model_name": "m", "inputs": {"n": 0, "pieces": 2}}
    with (
        pytest.raises(AssertionError, match="gave"),
        Callers(port, "/v1/generate", lambda number: body, count=1, keep_alive=False) as callers,
    ):
        until(lambda: callers.answers)
    stub.close()
