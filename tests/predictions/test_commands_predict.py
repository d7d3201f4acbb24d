"""`manage.py predict`: sync, queued, streaming, and interrupted."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from predictions.models import Task
from predictions.queue import queue
from tests.helpers import predictors
from tests.helpers.makers import RUNPOD
from tests.helpers.proxy import Proxy
from tests.helpers.stub import Stub, answers, hangs, streams, streams_until_hung_up
from tests.helpers.workers import RunningWorker
from tests.predictions.commands import Shell

GENERATE = "POST /v1/models/llm:predict"


@pytest.fixture
def stub() -> Iterator[Stub]:
    server = Stub()
    yield server
    server.close()


@pytest.fixture
def kserve(stub: Stub, configured: Callable[..., None], settings: Any) -> Stub:
    """The stub stands where KServe would."""
    path, arguments = settings.PLATFORMS["kserve"]
    known = {**settings.PLATFORMS, "kserve": (path, {**arguments, "address": stub.address})}
    configured(ML_PLATFORM="kserve", KSERVE_ADDRESS=stub.address, PLATFORMS=known)
    return stub


@pytest.fixture
def runpod(stub: Stub, configured: Callable[..., None], settings: Any) -> Stub:
    """The stub stands where RunPod would."""
    path, arguments = settings.PLATFORMS["runpod"]
    arguments = {**arguments, "address": f"{stub.url}/v2", "api_key": "key", "endpoint": "ep1"}
    known = {**settings.PLATFORMS, "runpod": (path, arguments)}
    configured(ML_PLATFORM="runpod", PLATFORMS=known, RUNPOD_APIKEY="key", RUNPOD_MODEL_ID="ep1")
    return stub


@pytest.fixture
def worker(start_worker: Callable[..., RunningWorker]) -> None:
    start_worker()


def piece(number: int, data: str) -> bytes:
    return json.dumps({"id": number, "data": data}).encode() + b"\n"


def test_the_outputs_are_on_stdout_and_the_rest_on_stderr(shell: Shell) -> None:
    said = shell("predict", "iris", "--inputs", '{"answer": {"species": "weiß"}}', "--user", "anna")
    task = Task.objects.get()
    assert (said.code, json.loads(said.out)) == (0, {"species": "weiß"})
    assert "weiß" in said.out
    assert said.err.startswith("Succeeded in ")
    assert task.pk in said.err
    assert (task.status, task.model_name, task.user_id) == ("succeeded", "iris", "anna")
    assert task.request_id.startswith("manage-")


def test_json_is_the_task_as_the_api_answers_it(shell: Shell, client: Any) -> None:
    said = shell("predict", "iris", "--inputs", '{"answer": 7}', "--model-version", "2", "--json")
    assert said.json == client.get(f"/task/{said.json['id']}").json()
    assert (said.json["outputs"], said.json["model_version"]) == (7, "2")


def test_inputs_come_from_a_file_or_from_stdin(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "inputs.json"
    file.write_text('{"answer": "from the file"}')
    assert json.loads(shell("predict", "iris", "--inputs-file", str(file)).out) == "from the file"
    assert json.loads(shell("predict", "iris", "--inputs-file", "-", stdin='{"answer": "typed"}').out) == "typed"


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[1]", "inputs: This must be a JSON object."),
        ('{"x": NaN}', "is not JSON"),
        ('{"x": 1e999}', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_inputs_that_are_no_json_object_are_wrong_usage(shell: Shell, inputs: str, says: str) -> None:
    said = shell("predict", "iris", "--inputs", inputs, "--json")
    assert (said.code, says in said.err, said.json["code"]) == (2, True, "invalid_request")
    assert not Task.objects.exists()


def test_a_file_that_is_not_there_and_a_name_that_is_none_are_wrong_usage(shell: Shell) -> None:
    assert "cannot be read: No such file" in shell("predict", "iris", "--inputs-file", "/no/where").err
    assert "model_name: " in shell("predict", " ", "--inputs", "{}").err
    assert not Task.objects.exists()


def test_a_failure_names_its_task(shell: Shell) -> None:
    inputs = '{"raise": "ValueError", "message": "four numbers are needed"}'
    said = shell("predict", "iris", "--inputs", inputs, "--json")
    task = Task.objects.get()
    assert (said.code, task.status) == (1, "failed")
    assert (said.json["code"], said.json["task_id"]) == ("invalid_inputs", task.pk)
    assert "four numbers are needed" in said.err
    assert task.pk in said.err


ENDINGS = [
    ("it broke", "it broke."),
    ("It broke.", "It broke."),
    ("no!", "no!"),
    ("why me?", "why me?"),
    ("and so on …", "and so on …"),
]


@pytest.mark.parametrize(("words", "told"), ENDINGS)
def test_the_platforms_words_end_in_one_full_stop(shell: Shell, words: str, told: str) -> None:
    said = shell("predict", "iris", "--inputs", json.dumps({"raise": "ValueError", "message": words}))
    assert said.err.endswith(f": The platform refused the inputs: {told} Its task is {Task.objects.get().pk}.\n")


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("words", "told"), ENDINGS)
def test_so_do_those_of_a_queued_prediction_that_is_waited_for(shell: Shell, words: str, told: str) -> None:
    inputs = json.dumps({"raise": "ValueError", "message": words})
    said = shell("predict", "iris", "--inputs", inputs, "--async", "--wait")
    assert said.err.endswith(f": The prediction failed: {told} Its task is {Task.objects.get().pk}.\n")


@pytest.mark.parametrize(("words", "told"), ENDINGS)
def test_advice_follows_the_platforms_words_as_a_sentence_of_its_own(
    shell: Shell, kserve: Stub, words: str, told: str
) -> None:
    kserve.script(GENERATE, answers({"error": words}, status=500))
    said = shell("predict", "llm", "--inputs", "{}")
    assert f": The prediction failed: {told} `manage.py doctor` may know why. Its task is " in said.err


def test_predict_reports_an_unreachable_platform(shell: Shell, kserve: Stub) -> None:
    kserve.close()
    said = shell("predict", "llm", "--inputs", "{}")
    assert said.code == 1
    assert "the kserve platform could not be reached (" in said.err
    assert "refused" in said.err
    assert Task.objects.get().status == "failed"


def test_without_redis_a_sync_prediction_still_runs(shell: Shell, redis_proxy: Proxy) -> None:
    redis_proxy.cut()
    assert shell("predict", "iris", "--inputs", '{"answer": 1}').code == 0


def test_a_full_queue_takes_nothing(shell: Shell, configured: Callable[..., None]) -> None:
    configured(MAX_QUEUE_SIZE=1)
    assert shell("predict", "iris", "--inputs", "{}", "--async").code == 0
    said = shell("predict", "iris", "--inputs", "{}", "--async", "--json")
    assert (said.code, said.json["code"]) == (1, "queue_full")
    assert Task.objects.count() == 1


def test_a_queued_prediction_answers_its_id(shell: Shell) -> None:
    said = shell("predict", "iris", "--inputs", "{}", "--async")
    assert (said.code, said.out, said.err) == (0, f"{Task.objects.get().pk}\n", "")
    assert list(shell("predict", "iris", "--inputs", "{}", "--async", "--json").json) == ["id"]
    assert queue.sizes().waiting == 2


@pytest.mark.usefixtures("worker")
def test_a_queued_prediction_can_be_waited_for(shell: Shell) -> None:
    said = shell("predict", "iris", "--inputs", '{"answer": [1]}', "--async", "--wait")
    task = Task.objects.get()
    assert (said.code, json.loads(said.out)) == (0, [1])
    assert f"succeeded: task {task.pk}" in said.err
    failed = shell("predict", "iris", "--inputs", '{"raise": "ValueError"}', "--async", "--wait", "--json")
    assert (failed.code, failed.json["code"]) == (1, "failed")


def test_ctrl_c_cancels_a_sync_prediction_and_closes_its_connection(shell: Shell, kserve: Stub) -> None:
    kserve.script(GENERATE, hangs)
    said = shell("predict", "llm", "--inputs", "{}", "--json", ctrl_c=lambda: kserve.count(GENERATE))
    task = Task.objects.get()
    assert (said.code, task.status) == (130, "canceled")
    assert (said.json["code"], said.json["task_id"]) == ("canceled", task.pk)
    assert kserve.hung_up.wait(20)


def test_a_second_ctrl_c_ends_what_would_not_end(shell: Shell) -> None:
    """One call of C: nothing reaches it before it returns."""
    said = shell("predict", "iris", "--inputs", '{"sleep": 600}', ctrl_c=lambda: predictors.calls, presses=2)
    assert (said.code, Task.objects.get().status) == (130, "canceled")
    assert "The task was canceled." in said.err


def test_ctrl_c_cancels_the_platforms_job_too(shell: Shell, runpod: Stub) -> None:
    RUNPOD.script(runpod, RUNPOD.job("running"))
    said = shell("predict", "m", "--inputs", "{}", ctrl_c=lambda: runpod.count(RUNPOD.status))
    task = Task.objects.get()
    assert (said.code, task.status, task.upstream_cancel) == (130, "canceled", "canceled")
    assert (runpod.count(RUNPOD.submit), runpod.count(RUNPOD.cancel)) == (1, 1)


def test_a_key_that_makes_no_valid_request_is_not_told(
    shell: Shell, runpod: Stub, configured: Callable[..., None], settings: Any
) -> None:
    path, arguments = settings.PLATFORMS["runpod"]
    broken = (path, {**arguments, "api_key": "sesame\nopen"})
    configured(PLATFORMS={**settings.PLATFORMS, "runpod": broken})
    for said in (shell("predict", "m", "--inputs", "{}"), shell("doctor")):
        assert (said.code, "make no valid request" in said.out + said.err) == (1, True)
        assert "sesame" not in said.out + said.err


def test_ctrl_c_cancels_a_queued_prediction_that_is_waited_for(shell: Shell) -> None:
    said = shell("predict", "iris", "--inputs", "{}", "--async", "--wait", ctrl_c=Task.objects.exists)
    assert (said.code, Task.objects.get().status) == (130, "canceled")
    assert queue.sizes().waiting == 0


def test_a_task_that_another_caller_cancels_exits_with_1(shell: Shell, kserve: Stub) -> None:
    from predictions import submission

    def cancel() -> bool:
        if kserve.count(GENERATE) and Task.objects.get().status == "running":
            submission.cancel(Task.objects.get().pk)
        return False

    kserve.script(GENERATE, hangs)
    said = shell("predict", "llm", "--inputs", "{}", ctrl_c=cancel)
    assert (said.code, Task.objects.get().status) == (1, "canceled")


def test_pieces_are_printed_as_they_are(shell: Shell, kserve: Stub) -> None:
    kserve.script(GENERATE, streams(piece(0, "Hel"), piece(1, "lo,\n"), piece(2, "wörld \x1b[2J")))
    said = shell("predict", "llm", "--inputs", "{}", "--stream")
    assert (said.code, said.out) == (0, "Hello,\nwörld �[2J\n")
    assert Task.objects.get().outputs == "Hello,\nwörld \x1b[2J"


def test_as_json_each_piece_is_a_line_and_the_task_the_last(shell: Shell, kserve: Stub) -> None:
    kserve.script(GENERATE, streams(piece(0, "a"), piece(1, "\ud800")))
    *pieces, last = shell("predict", "llm", "--inputs", "{}", "--stream", "--json").lines
    assert pieces == [{"id": 0, "data": "a"}, {"id": 1, "data": "\ud800"}]
    assert (last["task"]["id"], last["task"]["status"]) == (Task.objects.get().pk, "succeeded")


def test_a_stream_that_breaks_off_ends_with_1_after_its_pieces(shell: Shell, kserve: Stub) -> None:
    kserve.script(GENERATE, streams(piece(0, "a"), ends=False))
    said = shell("predict", "llm", "--inputs", "{}", "--stream", "--json")
    assert (said.code, said.lines[0]) == (1, {"id": 0, "data": "a"})
    assert (said.lines[1]["code"], Task.objects.get().status) == ("platform_error", "failed")


def test_ctrl_c_ends_a_stream_and_cancels_its_task(shell: Shell, kserve: Stub) -> None:
    kserve.script(GENERATE, streams_until_hung_up(piece(0, "a")))
    said = shell("predict", "llm", "--inputs", "{}", "--stream", ctrl_c=lambda: kserve.count(GENERATE))
    assert (said.code, Task.objects.get().status) == (130, "canceled")
    assert kserve.hung_up.wait(20)


def test_a_platform_that_cannot_stream_says_so(shell: Shell) -> None:
    said = shell("predict", "iris", "--inputs", "{}", "--stream", "--json")
    assert (said.code, said.json["code"]) == (1, "unsupported")
