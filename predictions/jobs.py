"""What a worker calls: the bridge between a job of the queue and the task of the same id."""

from platforms import Call, CallStopped, StopReason
from predictions import execution
from predictions.context import working_on
from predictions.queue import queue
from predictions.queue.runs import HandBack, RetryLater, Run, current_run
from predictions.recorder import RecordUnavailable


def run_prediction(task_id: str) -> None:
    """Runs the task's prediction, or writes down what an earlier run of this job kept."""
    with working_on(task_id=task_id):
        try:
            execution.run(task_id, _turn(current_run()))
        except RecordUnavailable as error:
            raise RetryLater from error
        except CallStopped as stopped:
            raise HandBack from stopped


def _turn(run: Run) -> execution.Turn:
    def stop_by_run(call: Call) -> None:
        run.stops(lambda reason: call.stop(StopReason(reason)))

    return execution.Turn(
        run_id=run.execution_id,
        lost=run.lost,
        handed_back=run.handed_back,
        attempts=queue.MAX_ATTEMPTS,
        timeout_seconds=run.remaining(),
        kept=run.outcome,
        on_call=stop_by_run,
        on_outcome=run.settle,
    )


def give_up(task_id: str, why: str) -> None:
    """For a job that cannot be run, or that did not end when told to."""
    try:
        execution.give_up(task_id, why)
    except RecordUnavailable as error:
        raise RetryLater from error


def put_back(runs: list[tuple[str, str]], lost: bool) -> None:
    """For runs (task id, run id) whose jobs wait in the queue again: handed back, or lost with their worker."""
    execution.put_back(runs, lost=lost)
