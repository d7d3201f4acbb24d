"""The rules: which changes one step of an actor may make, and which invariants hold after every step."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from rq.defaults import RQ_KEY_PREFIX

from platforms import PlatformError
from predictions import lifecycle, submission
from predictions.execution.runner import TaskCanceled
from predictions.lifecycle import InvalidTransition
from predictions.models import ENDED, Task
from predictions.queue import queue
from predictions.queue.queue import MAX_ATTEMPTS, QueueFull
from predictions.recorder import RecordUnavailable
from predictions.redis.connections import get_redis
from predictions.redis.errors import QueueUnavailable
from tests.predictions.actors import PLATFORM, Actor, Staged

PLACES = 2
SAID = "outputs from the client"
NOTES = {"upstream_cancel", "unreported"}
"""Fields that may still change after a task has ended."""
AWAY = (RecordUnavailable, QueueUnavailable)
HONEST: dict[str, tuple[type[Exception], ...]] = {
    "submit": (*AWAY, QueueFull),
    "predict": (*AWAY, PlatformError, TaskCanceled, ZeroDivisionError),
    "run": (),
    "cancel": (*AWAY, submission.AlreadyFinished, submission.NotOurs, submission.TaskNotFound),
    "report": (*AWAY, InvalidTransition),
    "cancel pending": AWAY,
    "init check": AWAY,
    "sweep": AWAY,
    "purge": AWAY,
    "put back": (),
}
"""The errors that each kind of actor may raise."""


def key(kind: str) -> str:
    return f"{RQ_KEY_PREFIX}:{kind}:default"


@dataclass(frozen=True)
class View:
    """The whole state: the rows and the queue."""

    rows: dict[str, dict[str, Any]]
    queued: list[str]
    scheduled: list[str]
    places: set[str]
    lapsed_places: set[str]
    held: set[str]
    leases: set[str]
    archived: set[str]

    @property
    def waiting(self) -> list[str]:
        return self.queued + self.scheduled

    @property
    def with_a_job(self) -> set[str]:
        """Tasks that run, wait in the queue or have a place there."""
        running = {member.split(":")[0] for member in self.leases}
        return running.union(self.waiting, self.places, self.held)

    def ids(self, *statuses: str) -> set[str]:
        return {task_id for task_id, row in self.rows.items() if row["status"] in statuses}

    def unfinished(self) -> set[str]:
        """Those of this agent."""
        return {task_id for task_id in self.ids("pending", "running") if self.rows[task_id]["agent"]}

    def status(self, task_id: str) -> str:
        return str(self.rows[task_id]["status"]) if task_id in self.rows else "gone"


def look() -> View:
    redis: Any = get_redis()
    with redis.pipeline(transaction=True) as pipe:
        pipe.lrange(key("queue"), 0, -1)
        pipe.zrange(key("scheduled"), 0, -1)
        pipe.zrangebyscore(key("reserved"), 10, "+inf")
        pipe.zrangebyscore(key("reserved"), "-inf", 9)
        pipe.zrangebyscore(key("held"), 10, "+inf")
        pipe.zrange(key("wip"), 0, -1)
        pipe.zrange(key("failed"), 0, -1)
        queued, scheduled, *others = ([name.decode() for name in names] for names in pipe.execute())
    rows = {row["id"]: row for row in Task.objects.order_by("created_at").values()}
    return View(rows, queued, scheduled, *map(set, others))


class Referee:
    """Sees the whole system before and after each step."""

    def __init__(self) -> None:
        self.view = look()
        self.excuses: Counter[str] = Counter()
        """How often the agent may send a task again, because its worker was lost or requeued it."""
        self.arrivals: Counter[str] = Counter()
        """How many runs of workers came to the platform with each task, without those that handed it back."""
        self._arrived: set[Actor] = set()
        self.put_back: set[str] = set()
        """Tasks whose jobs came into the queue without asking for a place: they had one before."""
        self.told: set[str] = set()
        """Tasks of which clients of the record service had something to say."""
        self._noticed: dict[Actor, set[str]] = {}
        """Tasks that a repair may have seen: unfinished ones without a job, or archived ones for a sweep."""

    def glance(self) -> None:
        """Notes a change that no actor made."""
        self.view = look()
        for actor in self._noticed:
            self._notice(actor)

    def _notice(self, actor: Actor) -> None:
        view = self.view
        self._noticed[actor] |= view.archived if actor.kind == "sweep" else view.unfinished() - view.with_a_job

    def excuse(self, task_id: str) -> None:
        """Allows one more request to the platform, unless the row has an upstream id to poll."""
        self.excuses[task_id] += not self.view.rows.get(task_id, {}).get("upstream_id")

    def judge(self, actor: Actor) -> None:
        """Checks every change since the last step against the actor's rights."""
        before = self.view
        if actor.kind in ("init check", "sweep") and actor not in self._noticed:
            self._noticed[actor] = set()
            self._notice(actor)
        self.glance()
        self._judge_changes(actor, before, self.view)
        for task_id, row in self.view.rows.items():
            self._judge_row(task_id, row)
        self._judge_queue(actor, before, self.view)
        if actor.at == PLATFORM and actor.kind == "run" and actor not in self._arrived:
            self._arrived.add(actor)
            self.arrivals[actor.task_id] += 1
            assert self.arrivals[actor.task_id] <= MAX_ATTEMPTS, "tried once more than promised"
        if actor.is_over:
            self._judge_answer(actor)
            self._noticed.pop(actor, None)

    def _judge_changes(self, actor: Actor, before: View, after: View) -> None:
        may_change = {
            "cancel pending": before.ids("pending"),
            "init check": self._noticed.get(actor, set()),
            "sweep": self._noticed.get(actor, set()),
            "purge": set(),
        }.get(actor.kind, {actor.task_id})
        for task_id, row in before.rows.items():
            if task_id not in after.rows:
                assert actor.kind == "purge", "only the purge deletes"
                assert row["status"] in ENDED, "deleted before it ended"
                continue
            changed = {name for name, value in after.rows[task_id].items() if row[name] != value}
            if row["status"] in ENDED:
                assert changed <= NOTES, f"an ended task changed: {changed}"
            elif changed:
                assert task_id in may_change, f"{actor.kind} changed {changed} of a task that is not its own"
                assert self._may_move(actor, before.rows[task_id], after.rows[task_id]), f"{actor.kind} moved a status"
                assert after.rows[task_id]["attempt"] >= row["attempt"], "an older attempt took over"
        assert after.rows.keys() - before.rows.keys() <= {actor.task_id}

    def _may_move(self, actor: Actor, before: dict[str, Any], after: dict[str, Any]) -> bool:
        if before["status"] == after["status"] == "pending":
            return True
        if after["status"] == "pending":  # its run gave it back, or was lost
            return actor.kind in ("run", "put back") and before["run_id"] == actor.run_id
        still_has_the_task = before["run_id"] and before["run_id"] == after["run_id"]  # though it was taken for lost
        if actor.kind == "run" and after["status"] == "succeeded" and still_has_the_task:
            return True
        return before["status"] in lifecycle.COMES_FROM[after["status"]]

    def _judge_row(self, task_id: str, row: dict[str, Any]) -> None:
        if row["status"] == "succeeded":
            answer = Staged.given.get(row["outputs"])
            assert answer == (task_id, row["run_id"]) or (task_id in self.told and row["outputs"] == SAID), "whose?"
        assert row["attempt"] <= MAX_ATTEMPTS or task_id in self.told
        assert (row["ended_at"] is not None) == (row["status"] in ENDED)
        assert row["started_at"] is not None or not Staged.asked[task_id], "it ran, and never started"
        assert Staged.asked[task_id] <= 1 + self.excuses[task_id], "sent to the platform again without need"

    def _judge_queue(self, actor: Actor, before: View, after: View) -> None:
        came = set(after.waiting) - set(before.waiting)
        went = set(before.waiting) - set(after.waiting)
        assert len(after.waiting) == len(set(after.waiting)), "queued twice"
        assert queue.sizes() == queue.Sizes(len(after.waiting), len(after.leases))
        may_come: set[str] = set()
        may_go: set[str] = set()
        match actor.kind:
            case "submit":
                self._judge_admission(actor, before, after)
                may_come = may_go = {actor.task_id}
                had_place = actor.task_id in before.places | before.lapsed_places
                had_place |= len(before.waiting) + len(before.places) < PLACES
                assert not came or had_place, "let in without a place"
            case "run":
                may_come = {actor.task_id} if actor.member in before.leases else {actor.task_id} - before.with_a_job
                self.put_back |= came
            case "predict":  # its result, if the database refused it
                may_come = {actor.task_id}
                self.put_back |= came
            case "init check":
                may_come = self._noticed[actor]
                self.put_back |= came
            case "cancel" if after.status(actor.task_id) in (*ENDED, "gone"):
                may_go = {actor.task_id}
            case "cancel pending":
                may_go = after.ids("canceled")
        assert came <= may_come, f"{actor.kind} queued another actor's task"
        assert went <= may_go, f"{actor.kind} removed another actor's task from the queue"
        assert len(set(after.waiting) - self.put_back) <= PLACES, "more tasks wait than there are places"

    def _judge_admission(self, actor: Actor, before: View, after: View) -> None:
        taken = len(before.waiting) + len(before.places)
        if not actor.task_id and (new := after.places - before.places):
            (actor.task_id,) = new
            assert taken < PLACES, "accepted beyond the bound"
        elif not actor.task_id and isinstance(actor.error, QueueFull):
            assert taken >= PLACES, "refused, though there was a place"
            assert after.rows == before.rows, "refused, and yet on record"

    def _judge_answer(self, actor: Actor) -> None:
        """The caller's answer must be true, and stay true."""
        if actor.error is not None and not isinstance(actor.error, HONEST[actor.kind]):
            raise AssertionError(f"{actor.kind} raised an undeclared error") from actor.error
        status = self.view.status(actor.task_id)
        match actor.kind, actor.result:
            case "cancel", bool():
                assert status in ("canceled", "gone")
                assert actor.task_id not in self.view.waiting or actor.missed_redis
            case "predict", Task():
                assert status in ("succeeded", "gone")
            case "submit", Task():
                assert status != "pending" or actor.task_id in self.view.with_a_job | self.view.archived
        match actor.error:
            case submission.AlreadyFinished():
                assert status in (*ENDED, "gone")
            case QueueFull():
                assert status in ("failed", "gone"), "refused, and yet it may run"
