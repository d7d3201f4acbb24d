"""Workers report jobs that end at about the same time together."""

import threading
import time
from collections.abc import Collection
from typing import Any

import pytest
from rest_framework.test import APIClient
from rq.defaults import RQ_KEY_PREFIX

from predictions.execution import inflight
from predictions.queue import queue
from predictions.redis.connections import get_redis
from predictions.worker.bookkeeping import Bookkeeping
from predictions.worker.runs import Ending, Run
from predictions.worker.worker import ThreadWorker
from tests.helpers.api import submit
from tests.helpers.proxy import Proxy
from tests.helpers.workers import new_worker


def claimed(worker: ThreadWorker, wanted: int) -> list[Run]:
    runs = worker._claim(wanted)
    assert len(runs) == wanted
    for run in runs:
        worker._active.add(run)
    return runs


@pytest.mark.parametrize("together", [1, 8])
def test_jobs_that_come_and_end_together_cost_one_claim_and_one_end(
    client: APIClient, redis_proxy: Proxy, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    for watch in inflight.watches:  # they ask Redis twice a second, however many jobs there are
        watch.end()
    monkeypatch.setattr(inflight, "watches", ())
    worker = new_worker()
    submit(client)
    assert worker._perform(*claimed(worker, 1))  # from here on Redis knows the scripts
    for _ in range(together):
        submit(client)
    worker._looked_at_others = time.monotonic()  # which is done once a second
    before = redis_proxy.requests
    runs = claimed(worker, together)
    assert redis_proxy.requests - before == 1
    with worker._active._reporter:  # another thread reports to Redis
        assert all(worker._perform(run) for run in runs)
        assert redis_proxy.requests - before == 1
    worker._active.report()
    assert redis_proxy.requests - before == 2
    assert queue.sizes() == queue.Sizes(0, 0)


def test_a_job_that_ends_during_another_report_does_not_wait(
    client: APIClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = new_worker()
    for _ in range(6):
        submit(client)
    first, *others = claimed(worker, 6)
    telling, go_on, told = threading.Event(), threading.Event(), []
    end = Bookkeeping.end

    def slowly(self: Bookkeeping, endings: Collection[Ending]) -> list[Ending]:
        told.append([ending.run for ending in endings])
        telling.set()
        assert go_on.wait(20)
        return end(self, endings)

    monkeypatch.setattr(Bookkeeping, "end", slowly)
    teller = threading.Thread(target=worker._perform, args=(first,), daemon=True)
    teller.start()
    assert telling.wait(20)
    for run in others:
        assert worker._perform(run)
    assert queue.sizes().running == len(worker._active) == 6
    go_on.set()
    teller.join(20)
    assert told == [[first], others]
    assert queue.sizes() == queue.Sizes(waiting=0, running=0)
    assert not worker._active.all()


def test_one_whose_end_cannot_be_stored_keeps_no_other_from_ending(client: APIClient) -> None:
    worker = new_worker()
    for _ in range(3):
        submit(client)
    runs = claimed(worker, 3)
    broken = f"{RQ_KEY_PREFIX}:job:{runs[1].job_id}"
    get_redis().delete(broken)
    get_redis().set(broken, "no hash")
    worker._active.store([Ending(run, "finished") for run in runs])
    archive: Any = get_redis().zrange(f"{RQ_KEY_PREFIX}:finished:default", 0, -1)
    assert {runs[0].job_id.encode(), runs[2].job_id.encode()} <= set(archive)
    assert not worker._active.all()


def test_an_unexpected_error_leaks_no_slot(client: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = new_worker()
    submit(client)
    (run,) = claimed(worker, 1)

    def broken(self: Bookkeeping, endings: Collection[Ending]) -> list[Ending]:
        raise ValueError("a defect")

    monkeypatch.setattr(Bookkeeping, "end", broken)
    assert worker._perform(run)
    assert not worker._active.all()
    assert worker._active._reporter.acquire(blocking=False)
