"""Any interleaving of submitters, workers, cancels, crashes, repairs and late writes, one statement at a time.

Hypothesis chooses who goes on, who dies and what breaks; the code, the database and Redis are the real ones. After each
step the rows and the queue may have changed only as the one who moved is entitled to, and an ended task not at all. In
the end everything is killed, the repairs run, and nothing may be left unsettled.
"""

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db.models import F
from hypothesis import HealthCheck, Phase, strategies
from hypothesis import settings as profile
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from predictions import jobs, lifecycle, submission
from predictions.execution import inflight
from predictions.models import Task
from predictions.operations import maintenance
from predictions.queue import queue
from predictions.redis.connections import get_redis
from predictions.worker.runs import Run
from predictions.worker.worker import ThreadWorker
from tests.helpers.workers import new_worker
from tests.predictions.actors import PLATFORM, Actor, Order, Staged, request
from tests.predictions.referee import SAID, Referee, View, key, look

CROWD = 8
"""How many are under way at once, at most."""

number = strategies.integers(0, 63)
"""Which of those there are to choose from."""
STAGES = [
    "waiting",
    "full queue",
    "late for its place",
    "late, and the queue is full",
    "at the platform",
    "answered, and the database away",
    "taken over",
    "taken over before it began",
]
models = strategies.sampled_from(["plain", "polled"])


class Tasks(RuleBasedStateMachine):
    opening: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        get_redis().flushall()
        Task.objects.all().delete()
        Staged.forget()
        self.worker = new_worker()
        self.actors: list[Actor] = []
        self.claims: list[str] = []
        self.runs: dict[Actor, Run] = {}
        self.looks = inflight._Cancellations()
        self.referee = Referee()
        self.is_sound = True
        self.ending = "killed"

    @property
    def view(self) -> View:
        return self.referee.view

    # --- who may begin

    def has_room(self) -> bool:
        return len(self.actors) < CROWD

    def begin(self, kind: str, work: Callable[[], Any], *, task_id: str = "", run_id: str = "") -> Actor:
        self.is_sound = False
        actor = Actor(kind, work, task_id=task_id, run_id=run_id)
        self.actors.append(actor)
        self.judge(actor)
        return actor

    @initialize(
        more=strategies.lists(strategies.sampled_from(STAGES), max_size=2),
        model=models,
        ending=strategies.sampled_from(["checked", "checked late", "killed"]),
    )
    def some_work_is_there(self, more: list[str], model: str, ending: str) -> None:
        self.ending = ending
        for stage in (*self.opening, *more):
            self.build(stage, model)

    def build(self, stage: str, model: str) -> None:
        self.submit(model)
        submitter = self.actors[-1]
        self.go(submitter)
        if submitter.is_over:  # there was no place
            return
        self.go(submitter)  # its task is on record
        if stage.startswith("late"):
            self.places_lapse()
        else:
            self.finish(submitter)
        if "full" in stage:
            self.build("full queue", model)
        elif stage != "waiting" and not stage.startswith("late"):
            self.take(stage)

    def take(self, stage: str) -> None:
        self.claim()
        if stage != "taken over before it began":
            self.to_the_platform(-1)
        if stage.startswith("taken over"):
            self.lapse(self.actors[-1].member)
            self.take("at the platform")
        if stage.startswith("answered"):
            self.go(self.actors[-1], Order.SUCCEED)
            self.go(self.actors[-1], Order.AWAY)

    @rule(model=models)
    @precondition(has_room)
    def submit(self, model: str) -> None:
        self.begin("submit", partial(submission.submit, request(model)))

    @rule(is_heard=strategies.sampled_from([True, True, True, False]))
    @precondition(lambda self: self.has_room() and self.view.queued)
    def claim(self, *, is_heard: bool = True) -> None:
        """A worker takes a job; if Redis' answer is lost, the job has a lease and no worker."""
        before = self.view
        runs, is_paused = self.worker._books.claim("default", 1)
        self.referee.glance()
        if is_paused:
            assert queue.paused()
            return
        assert not queue.paused(), "handed out while paused"
        (run,) = runs
        assert [run.job_id, *self.view.queued] == before.queued
        assert run.member in self.view.leases
        self.claims.append(run.member)
        self.referee.put_back.discard(run.job_id)
        if is_heard:
            work = partial(self.process()._perform, run)
            actor = self.begin("run", work, task_id=run.job_id, run_id=run.execution_id)
            self.runs[actor] = run

    def process(self) -> ThreadWorker:
        """The worker in a process of its own: who dies takes nothing of the others along."""
        worker = new_worker()
        worker._books = self.worker._books
        return worker

    @rule(index=number)
    @precondition(lambda self: self.has_room() and self.view.rows)
    def cancel(self, index: int) -> None:
        task_id = one_of(self.view.rows, index)
        self.begin("cancel", partial(submission.cancel, task_id), task_id=task_id)

    @rule(index=number, status=strategies.sampled_from(["running", "succeeded", "failed", "canceled"]))
    @precondition(lambda self: self.has_room() and self.view.rows)
    def report(self, index: int, status: str) -> None:
        """A client of the record service says something of a task that it has looked up."""
        task = Task.objects.get(pk=one_of(self.view.rows, index))
        fields = {"outputs": SAID} if status == "succeeded" else {}
        self.referee.told.add(task.pk)
        self.begin("report", partial(lifecycle.apply, task, status=status, **fields), task_id=task.pk)

    @rule(kind=strategies.sampled_from(["predict", "cancel pending", "init check", "sweep", "purge"]), model=models)
    @precondition(has_room)
    def others(self, kind: str, model: str) -> None:
        work: dict[str, Callable[[], Any]] = {
            "predict": partial(submission.predict, request(model)),
            "cancel pending": submission.cancel_pending,
            "init check": maintenance.init_check,
            "sweep": maintenance.sweep_archive,
            "purge": maintenance.purge_tasks,
        }
        self.begin(kind, work[kind])

    # --- who goes on, and how

    def go(self, actor: Actor, order: Order = Order.GO) -> None:
        self.is_sound = False
        actor.go(order)
        self.judge(actor)

    def judge(self, actor: Actor) -> None:
        if actor.is_over:
            self.actors.remove(actor)
        self.referee.judge(actor)
        self.is_sound = True

    @rule(index=number)
    @precondition(lambda self: self.actors)
    def one_step(self, index: int) -> None:
        actor = one_of(self.actors, index)
        self.go(actor, Order.SUCCEED if actor.at == PLATFORM else Order.GO)

    @rule(index=number)
    @precondition(lambda self: self.under_way())
    def to_the_platform(self, index: int) -> None:
        actor = one_of(self.under_way(), index)
        while not actor.is_over and actor.at != PLATFORM:
            self.go(actor)

    @rule(index=number)
    @precondition(lambda self: self.actors)
    def to_the_end(self, index: int) -> None:
        self.finish(one_of(self.actors, index))

    def finish(self, actor: Actor) -> None:
        while not actor.is_over:
            self.go(actor, Order.SUCCEED if actor.at == PLATFORM else Order.GO)

    @rule(index=number, order=strategies.sampled_from([Order.SUCCEED, Order.FAIL, Order.DEFECT, Order.REACT]))
    @precondition(lambda self: self.asked())
    def the_platform_answers(self, index: int, order: Order) -> None:
        actor = one_of(self.asked(), index)
        self.go(actor, order)

    @rule(index=number)
    @precondition(lambda self: self.asked("run"))
    def a_worker_shuts_down(self, index: int) -> None:
        actor = one_of(self.asked("run"), index)
        self.referee.excuse(actor.task_id)
        self.referee.arrivals[actor.task_id] -= 1
        self.runs[actor].stop("shutdown")
        self.go(actor, Order.REACT)

    @rule(index=number, order=strategies.sampled_from([Order.AWAY, Order.LOST, Order.DIE]))
    @precondition(lambda self: self.actors)
    def something_breaks(self, index: int, order: Order) -> None:
        actor = one_of(self.actors, index)
        self.go(actor, Order.DIE if actor.at == PLATFORM else order)

    def asked(self, *kinds: str) -> list[Actor]:
        """Those who wait for the platform."""
        return [a for a in self.actors if a.at == PLATFORM and (a.kind in kinds or not kinds)]

    def under_way(self) -> list[Actor]:
        return [actor for actor in self.actors if actor.at != PLATFORM]

    # --- what time and operators do

    @rule(index=number)
    @precondition(lambda self: self.view.leases)
    def a_lease_lapses(self, index: int) -> None:
        """Its holder is dead, or only cut off and about to write late."""
        self.lapse(one_of((claim for claim in self.claims if claim in self.view.leases), index))

    def lapse(self, member: str) -> None:
        self.tick()
        task_id = member.split(":")[0]
        self.referee.excuse(task_id)
        self.referee.put_back.add(task_id)
        get_redis().zadd(key("wip"), {member: 1})
        self.tick()
        assert member not in self.view.leases
        assert task_id in (*self.view.queued[:1], *self.view.archived)

    @rule()
    def tick(self) -> None:
        """A worker's regular work; every wait for a retry is over."""
        before = self.view
        for score, task_id in enumerate(before.scheduled):
            get_redis().zadd(key("scheduled"), {task_id: score})
        _, lost = self.worker._books.tick("default")
        self.referee.glance()
        assert not self.view.scheduled
        assert set(before.waiting) <= set(self.view.queued)
        for task_id, run_id in lost:
            work = partial(jobs.put_back, [(task_id, run_id)], True)
            self.begin("put back", work, task_id=task_id, run_id=run_id)

    @rule()
    def beat(self) -> None:
        """Workers report their runs, all processes report their predictions in flight, and learn of cancels."""
        runs = [self.runs[actor] for actor in self.actors if actor.kind == "run"]
        self.worker._books.beat("default", runs, state="busy", ttl=600)
        self.looks.stop_canceled()
        self.referee.glance()

    @rule(
        what=strategies.sampled_from(["places", "holds", "time", "time", "Redis", "pause", "resume", "another agent"])
    )
    def meanwhile(self, what: str) -> None:
        match what:
            case "places":
                self.places_lapse()
            case "holds":
                self.holds_lapse()
            case "time":
                self.time_passes()
            case "Redis":
                self.redis_is_emptied()
            case "pause":
                queue.pause("the test")
            case "resume":
                queue.resume()
            case "another agent":
                lifecycle.create(Task(model_name="elsewhere", status="pending"))
        self.referee.glance()

    def places_lapse(self) -> None:
        for place in self.view.places:
            get_redis().zadd(key("reserved"), {place: 1})
        self.referee.glance()

    def holds_lapse(self) -> None:
        for task_id in self.view.held:
            get_redis().zadd(key("held"), {task_id: 1})
        self.referee.glance()

    def time_passes(self) -> None:
        """Makes unfinished tasks older than TASK_TIMEOUT, and ended ones older than TASK_RETENTION."""
        age = timedelta(days=3)
        Task.objects.update(created_at=F("created_at") - age, started_at=F("started_at") - age)
        Task.objects.update(ended_at=F("ended_at") - age)

    def redis_is_emptied(self) -> None:
        get_redis().flushall()

    # --- the end: everything finishes or is killed, and is set right

    def teardown(self) -> None:
        try:
            if self.is_sound and self.ending != "killed":
                self.finish_all()
        finally:
            self.kill_all()
        try:
            if self.is_sound:
                self.referee.glance()
                self.settle()
        finally:
            self.kill_all()

    def kill_all(self) -> None:
        """Nobody keeps a connection to the database: the next example needs all of the pool."""
        for actor in self.actors:
            actor.go(Order.DIE)
        self.actors.clear()

    def finish_all(self) -> None:
        """An init check that comes in the middle of it all must touch nothing that has a job."""
        if self.ending == "checked late":
            self.time_passes()
            self.referee.glance()
        self.repair(maintenance.init_check)
        while self.actors:
            self.finish(self.actors[0])

    def settle(self) -> None:
        queue.resume()
        self.tick()  # after a silence it gives everybody a second chance
        self.places_lapse()
        self.holds_lapse()
        while self.view.leases:
            self.a_lease_lapses(0)
        self.repair(maintenance.init_check)
        self.drain()
        self.time_passes()
        self.referee.glance()
        self.repair(maintenance.sweep_archive)
        self.repair(maintenance.init_check)
        assert not self.view.unfinished(), "neither a job nor anybody works on it, and it has not ended"
        assert not self.view.with_a_job | self.view.archived
        before = self.view
        assert str(maintenance.sweep_archive()) == str(maintenance.init_check()) == "nothing to do"
        assert look() == before

    def repair(self, command: Callable[[], Any]) -> None:
        self.finish(self.begin(command.__name__.replace("_archive", "").replace("_", " "), command))

    def drain(self) -> None:
        """A worker that is well takes one job after the other."""
        self.tick()
        while self.view.queued:
            self.claim()
            self.finish(self.actors[-1])
            self.tick()


def one_of(things: Iterable[Any], index: int) -> Any:
    choice = list(things)
    return choice[index % len(choice)]


def explore(machine: type[Tasks], **chosen: Any) -> None:
    unhurried = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine,
        settings=profile(
            deadline=None, database=None, report_multiple_bugs=False, suppress_health_check=unhurried, **chosen
        ),
    )


@pytest.mark.parametrize("stage", STAGES)
def test_every_task_ends_once_in_every_interleaving(staged: None, stage: str) -> None:
    machine = type("Tasks", (Tasks,), {"opening": (stage,)})
    # What fails is shown as it was found: making it smaller takes minutes.
    explore(
        machine,
        max_examples=7,
        stateful_step_count=20,
        derandomize=True,
        phases=[Phase.generate],
    )


@pytest.mark.slow
def test_every_task_ends_once_in_a_long_search(staged: None) -> None:
    """The same search each time, or with SEARCH_EXAMPLES=5000 that many random interleavings."""
    examples = os.environ.get("SEARCH_EXAMPLES")
    explore(
        Tasks,
        max_examples=int(examples or 100),
        stateful_step_count=60,
        derandomize=not examples,
        phases=[Phase.generate],
        print_blob=bool(examples),
    )
