"""KServe's model servers that come and go, under an agent that goes on."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from predictions.models import Task
from tests.helpers.api import assert_error
from tests.helpers.proxy import Proxy
from tests.helpers.waiting import until
from tests.peers.agent import FLOWER, Agent, NewAgent
from tests.peers.model_server import ModelServer

pytestmark = pytest.mark.slow

NewModelServer = Callable[..., ModelServer]


def assert_predicts(agent: Agent, times: int = 1) -> None:
    """So many predictions at once, each on a connection of its own, all succeed."""
    with ThreadPoolExecutor(times) as pool:
        answers = list(pool.map(lambda _: agent.predict("moods", {"mood": "sleep", "seconds": 0.3}), range(times)))
    assert [answer.status_code for answer in answers] == [200] * times, [answer.text for answer in answers]


def test_predictions_work_again_after_a_model_server_was_stopped(agent: NewAgent, own_kserve: NewModelServer) -> None:
    kserve = own_kserve()
    here = agent(kserve.address, worker=True)
    assert_predicts(here, times=8)  # leaves eight connections in the pool
    kserve.forget_calls()

    with ThreadPoolExecutor() as pool:
        in_flight = pool.submit(here.predict, "moods", {"mood": "sleep", "seconds": 2})
        until(kserve.calls)
        kserve.terminate()
        assert in_flight.result(20).json()["outputs"] == {"slept": 2}  # running predictions finish
    kserve.wait()

    started = time.monotonic()
    response = here.predict("iris", {"instances": [FLOWER]})
    assert_error(response, 502, "platform_error")
    assert response.json()["error"] == "the kserve platform could not be reached"
    took = time.monotonic() - started
    assert took > 1, "it is tried again"
    failed = here.ended(here.submit("iris", {"instances": [FLOWER]}))
    assert (failed["status"], failed["error_info"]) == ("failed", "the kserve platform could not be reached")

    kserve.start()
    assert_predicts(here, times=8)
    assert here.ended(here.submit("iris", {"instances": [FLOWER]}))["outputs"] == {"predictions": [0]}
    print(f"\na stopped model server is reported after {took:.1f} s")


def test_no_prediction_runs_twice_while_model_servers_come_and_go(agent: NewAgent, own_kserve: NewModelServer) -> None:
    kserve = own_kserve()
    here = agent(kserve.address)
    assert_predicts(here, times=8)
    kserve.forget_calls()
    over = threading.Event()

    def keep_asking(caller: int) -> list[tuple[str, requests.Response]]:
        answers = []
        while not over.is_set():
            name = f"{caller}/{len(answers)}"
            answers.append((name, here.predict("moods", {"mood": "sleep", "seconds": 0.05, "name": name})))
        return answers

    with ThreadPoolExecutor(8) as pool:
        callers = [pool.submit(keep_asking, number) for number in range(8)]
        try:
            for end in (kserve.stop, kserve.kill):
                time.sleep(1)
                end()
                kserve.start()
            time.sleep(1)
        finally:
            over.set()
        answers = [answer for caller in callers for answer in caller.result(60)]
    ran = Counter(call["inputs"]["name"] for call in kserve.calls())
    assert set(ran.values()) == {1}
    statuses = Counter(answer.status_code for _, answer in answers)
    assert set(statuses) <= {200, 502}
    assert statuses[200] > 100
    assert all(name in ran for name, answer in answers if answer.status_code == 200)
    assert not Task.objects.unfinished().exists()
    print(f"\n{dict(statuses)} through a SIGTERM and a kill -9")


def test_a_prediction_lost_with_its_model_server_is_not_run_again(agent: NewAgent, own_kserve: NewModelServer) -> None:
    kserve = own_kserve()
    here = agent(kserve.address, worker=True)
    with ThreadPoolExecutor() as pool:
        sync = pool.submit(here.predict, "moods", {"mood": "sleep", "seconds": 60})
        task_id = here.submit("moods", {"mood": "sleep", "seconds": 60})
        until(lambda: len(kserve.calls()) == 2)
        kserve.kill()
        response = sync.result(50)
    assert_error(response, 502, "platform_error")
    assert here.ended(task_id)["status"] == "failed"
    assert here.ended(task_id)["error_info"] == response.json()["error"]
    kserve.start()
    assert_predicts(here)
    assert len(kserve.calls()) == 3


def test_a_prediction_whose_connection_breaks_is_not_repeated(agent: NewAgent, kserve: ModelServer) -> None:
    """The model server is there all the time and would take it again."""
    proxy = Proxy(kserve.address)
    try:
        here = agent(proxy.address, worker=True)
        with ThreadPoolExecutor() as pool:
            sync = pool.submit(here.predict, "moods", {"mood": "sleep", "seconds": 60})
            task_id = here.submit("moods", {"mood": "sleep", "seconds": 60})
            until(lambda: len(kserve.calls()) == 2)
            proxy.cut()
            proxy.mend()
            assert_error(sync.result(50), 502, "platform_error")
        assert here.ended(task_id)["status"] == "failed"
        time.sleep(1)
        assert len(kserve.calls()) == 2
        assert_predicts(here, times=4)
        assert here.ended(here.submit("iris", {"instances": [FLOWER]}))["status"] == "succeeded"
    finally:
        proxy.close()


def test_a_connection_that_was_closed_while_idle_is_replaced(agent: NewAgent, own_kserve: NewModelServer) -> None:
    kserve = own_kserve("--timeout-keep-alive=1")
    here = agent(kserve.address)
    for pause in (0, 0.5, 1.0, 1.5, 3.0, 0.98, 1.0, 1.02):
        time.sleep(pause)
        response = here.predict("iris", {"instances": [FLOWER]})
        assert response.status_code == 200, (pause, response.text)
    assert len(kserve.calls()) == 8
