"""`manage.py predict`: run a prediction from the shell, with the agent's own settings."""

import json
import sys
from contextlib import closing, suppress
from pathlib import Path
from threading import Event
from typing import Any, NoReturn

from django.core.management.base import CommandParser
from rest_framework.exceptions import ValidationError

from predictions import submission
from predictions.api.errors import describe
from predictions.api.predictions import UID_LENGTH
from predictions.api.serializers import PredictionSerializer, task_object
from predictions.database.errors import database_errors
from predictions.execution.runner import TaskCanceled
from predictions.ids import new_id
from predictions.management.following import changes
from predictions.management.interruption import interruption
from predictions.management.output import INTERRUPTED, AgentCommand, printable, readable_json
from predictions.models import Task
from predictions.operations.diagnosis.formatting import full_stop
from predictions.recorder import RecordError
from predictions.redis.errors import QueueUnavailable
from predictions.submission import PredictionRequest
from predictions.telemetry.log_context import working_on


class Command(AgentCommand):
    help = """\
Runs a prediction as a caller of the API would, with this agent's settings: it becomes a task, is on record, and can be
seen in the admin. By default it waits and prints the outputs; --async queues it for a worker and prints the task's id;
--stream prints each piece the moment it comes. Ctrl-C cancels the task.

The outputs are on stdout, all else on stderr. The exit code is 0 for a prediction that succeeded (or was queued)."""
    examples = """\
  manage.py predict iris --inputs '{"instances": [[5.1, 3.5, 1.4, 0.2]]}'
  manage.py predict iris --inputs-file flowers.json --json      the whole task, as /v1/predict answers it
  jq -n '{prompt: "hello"}' | manage.py predict llm --inputs-file - --stream
  id=$(manage.py predict iris --inputs-file flowers.json --async)
  manage.py predict iris --inputs-file flowers.json --async --wait

With --json, --stream prints a JSON document a line: the pieces {"id", "data"}, then {"task": …}."""

    task_id = ""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("model", help="the model's name, as the platform knows it")
        given = parser.add_mutually_exclusive_group(required=True)
        given.add_argument("--inputs", metavar="JSON", help="the inputs, a JSON object")
        given.add_argument("--inputs-file", metavar="FILE", help="where they are; - for stdin")
        parser.add_argument("--model-version", default="", help="which version of the model")
        parser.add_argument("--user", default="", help="whose task it is (the API's UID header)")
        how = parser.add_mutually_exclusive_group()
        how.add_argument("--async", action="store_true", dest="queued", help="queue it for a worker; print its id")
        how.add_argument("--stream", action="store_true", help="print each piece the moment it comes")
        parser.add_argument("--wait", action="store_true", help="with --async: wait until it has ended")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["wait"] and not options["queued"]:
            self.refuse("--wait goes with --async: without it the prediction is waited for anyway.")
        request = self._checked(options)
        with working_on(request_id=f"manage-{new_id().hex}"), interruption() as interrupted:
            try:
                if options["queued"]:
                    self._submit(request, interrupted, wait=options["wait"])
                elif options["stream"]:
                    self._stream(request, interrupted)
                else:
                    self._show(submission.predict(request, caller_is_gone=interrupted.is_set, on_task=self._note))
            except TaskCanceled:
                self._canceled(by_us=interrupted.is_set())
            except KeyboardInterrupt:  # the second Ctrl-C: the prediction did not end
                self._cancel()
                self._canceled(by_us=True)

    def _submit(self, request: PredictionRequest, interrupted: Event, *, wait: bool) -> None:
        task = submission.submit(request)
        self._note(task)
        if not wait:
            self.answer({"id": task.pk}, task.pk)
            return
        for change in changes(Task.objects.all(), interrupted, ids=[task.pk]):
            self.tell(f"{change.status}: task {change.pk}")
        if interrupted.is_set():
            self._cancel()
        with database_errors():
            task.refresh_from_db()
        self._show(task, interrupted=interrupted.is_set())

    def _stream(self, request: PredictionRequest, interrupted: Event) -> None:
        task, chunks = submission.stream(request, caller_is_gone=interrupted.is_set)
        self._note(task)
        with closing(chunks):
            for chunk in chunks:
                piece = json.dumps({"id": chunk.id, "data": chunk.data}) + "\n" if self.as_json else chunk.data
                self.stdout.write(printable(piece), ending="")
                self.stdout.flush()
        self.answer_line({"task": task_object(task)}, "")
        self._tell_success(task)

    def _show(self, task: Task, *, interrupted: bool = False) -> None:
        if task.status == Task.Status.CANCELED:
            self._canceled(by_us=interrupted)
        if task.status == Task.Status.FAILED:
            self.fail("failed", f"The prediction failed: {full_stop(printable(task.error_info))}")
        self.answer(task_object(task), readable_json(task.outputs))
        self._tell_success(task)

    def _tell_success(self, task: Task) -> None:
        self.tell(f"Succeeded in {task.running_time or 0:.3f} s: task {task.pk}")

    def _note(self, task: Task) -> None:
        self.task_id = task.pk

    def _cancel(self) -> None:
        with suppress(submission.TaskNotFound, submission.AlreadyFinished, RecordError, QueueUnavailable):
            submission.cancel(self.task_id)

    def _canceled(self, *, by_us: bool) -> NoReturn:
        self.fail("canceled", "The task was canceled.", returncode=INTERRUPTED if by_us else 1)

    def fail(self, code: str, sentence: str, *, returncode: int = 1, **about: str) -> NoReturn:
        if self.task_id:
            about, sentence = {**about, "task_id": self.task_id}, f"{sentence} Its task is {self.task_id}."
        super().fail(code, sentence, returncode=returncode, **about)

    def _checked(self, options: dict[str, Any]) -> PredictionRequest:
        """The request as the API checks it."""
        inputs = self._inputs(options["inputs"], options["inputs_file"])
        version = options["model_version"]
        request = PredictionSerializer(
            data={"model_name": options["model"], "inputs": inputs, "model_version": version}
        )
        try:
            request.is_valid(raise_exception=True)
        except ValidationError as error:
            self.refuse(f"{describe(error)[1]['error']}")
        return PredictionRequest(**request.validated_data, user_id=options["user"][:UID_LENGTH])

    def _inputs(self, text: str | None, path: str | None) -> Any:
        where = "--inputs" if path is None else "stdin" if path == "-" else path
        try:
            if path is not None:
                text = sys.stdin.read() if path == "-" else Path(path).read_text()
            inputs = json.loads(text or "")
            json.dumps(inputs, allow_nan=False)
        except OSError as error:
            self.refuse(f"{where} cannot be read: {full_stop(error.strerror or str(error))}")
        except (ValueError, RecursionError) as error:
            self.refuse(f"What {where} holds is not JSON: {full_stop(str(error))}")
        return inputs
