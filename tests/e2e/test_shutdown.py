"""SIGTERM to web under load: every request is answered or refused with 503, none is cut off."""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
import requests

from predictions.models import Task
from tests.e2e.conftest import SlowPlatform
from tests.predictions.test_cancel import until
from tests.servers import Server

pytestmark = pytest.mark.slow


def test_web_finishes_what_is_in_flight_and_refuses_the_rest(
    serve: Callable[..., Server], slow_platform: SlowPlatform
) -> None:
    web = serve("web", **slow_platform.environment())
    answers: list[str] = []
    answered_after: list[int] = []
    terminated = threading.Event()
    over = threading.Event()

    def caller(number: int) -> None:
        with requests.Session() as session:
            while not over.is_set():
                body = {"model_name": "m", "inputs": {"n": number, "sleep": 0.5}}
                try:
                    response = session.post(f"{web.url}/v1/predict", json=body, timeout=60)
                except requests.ConnectionError as error:
                    # Nobody listens any more, or a connection that was idle was closed: nothing was begun.
                    answers.append("refused" if terminated.is_set() else f"broken: {error}")
                    return
                answers.append(str(response.status_code))
                if terminated.is_set():
                    answered_after.append(response.status_code)
                if response.status_code == 503:
                    assert response.headers["Connection"] == "close"
                    assert response.json()["code"] == "unavailable"

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(32)]
    for thread in callers:
        thread.start()
    until(lambda: answers.count("200") >= 64)
    terminated.set()
    web.signal(signal.SIGTERM)
    time.sleep(2)
    over.set()
    for thread in callers:
        thread.join(60)
    web.process.wait(60)
    assert set(answers) <= {"200", "503", "refused"}
    assert answered_after.count(200) >= 1
    # Each prediction that reached the platform was recorded, and each that was answered 200 had reached it.
    assert Counter(task.status for task in Task.objects.all()) == {"succeeded": answers.count("200")}
    assert len(slow_platform.calls()) == answers.count("200")
    print(f"\nafter SIGTERM: {Counter(answered_after)}; in all: {Counter(answers)}")
